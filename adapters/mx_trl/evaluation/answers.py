"""What a policy answers to held-out prompts: sampled with the same random numbers for every model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mx_plugin.execution.engine import Engine

from ..samples import Sample, read_sample

PLAIN = "other"
"""The phase in which nothing is quantised."""


@dataclass(frozen=True)
class Answers:
    """One completion a prompt, and the batches that they were sampled in."""

    texts: list[str]
    samples: list[Sample]
    lengths: list[int]
    ended: list[bool]


def answer(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    *,
    engine: Engine | None,
    phase: str,
    new_tokens: int,
    temperature: float,
    batch_size: int,
    seed: int,
) -> Answers:
    """Sample a completion of each prompt (greedily at temperature 0), executed in ``phase``.

    Every batch starts from the same random state in every evaluation, so that two models that differ little give
    mostly the same answers, and their difference is seen through less noise. The global random state is left alone.
    """
    found = Answers([], [], [], [])
    ends = policy.generation_config.eos_token_id
    stop = set() if ends is None else {ends} if isinstance(ends, int) else set(ends)
    for number, rows in enumerate(_batches(prompts, batch_size)):
        tokens, mask = _left_padded(rows, int(tokenizer.pad_token_id), policy.device)
        sampling: dict[str, Any] = {"do_sample": False}
        if temperature > 0:
            sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        entered = nullcontext() if engine is None else engine.phase(phase)
        with torch.no_grad(), torch.random.fork_rng(_devices(policy)), entered:
            torch.manual_seed(seed + 7919 * number)
            made = policy.generate(input_ids=tokens, attention_mask=mask, max_new_tokens=new_tokens, **sampling)
        sample = read_sample(policy, (), {"input_ids": tokens, "attention_mask": mask}, made, len(rows))
        assert sample is not None, "at least one token was generated"
        found.samples.append(sample)
        for row in range(len(rows)):
            own = sample.tokens[row][sample.sampled[row]].tolist()
            found.lengths.append(len(own))
            found.ended.append(bool(own) and own[-1] in stop)
            found.texts.append(str(tokenizer.decode(own, skip_special_tokens=True)))
    return found


def _devices(policy: PreTrainedModel) -> list[torch.device]:
    return [policy.device] if policy.device.type == "cuda" else []


def _batches(prompts: Sequence[list[int]], size: int) -> Iterator[list[list[int]]]:
    for start in range(0, len(prompts), size):
        yield list(prompts[start : start + size])


def _left_padded(rows: list[list[int]], pad: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    tokens = torch.tensor([[pad] * (width - len(ids)) + ids for ids in rows], device=device)
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in rows], device=device)
    return tokens, mask
