"""What a generation call returned, as tokens that can be scored again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import torch

_FILL = 0
"""Token id of padding; any valid one will do, for attention does not see it."""


@dataclass(frozen=True)
class Sample:
    """Sequences as generated, prompts on the left: all three (batch, length).

    ``tokens`` int64, ``attention`` 0 or 1, ``sampled`` bool: which tokens the policy sampled.
    """

    tokens: torch.Tensor
    attention: torch.Tensor
    sampled: torch.Tensor


def read_sample(
    model: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    output: Any,
    count: int,
) -> Sample | None:
    """The first ``count`` sequences of a ``generate`` or ``generate_batch`` call; None for a form that is neither."""
    # transformers' own outputs of ``generate`` are mappings, too.
    if isinstance(output, Mapping) and not hasattr(output, "sequences"):
        return _of_requests(list(output.values())[:count], next(model.parameters()).device)
    prompts = next((x for x in (kwargs.get("input_ids"), kwargs.get("inputs"), *args[:1]) if x is not None), None)
    sequences = output if isinstance(output, torch.Tensor) else getattr(output, "sequences", None)
    if not isinstance(prompts, torch.Tensor) or not isinstance(sequences, torch.Tensor):
        return None
    return _of_tensors(prompts[:count], kwargs.get("attention_mask"), sequences[:count], _stop_tokens(model, kwargs))


def _stop_tokens(model: Any, kwargs: Mapping[str, Any]) -> set[int]:
    """Ids at which this generation stopped: those that it was given, else the model's, as transformers has it.

    Not the tokenizer's end token: PPO without ``stop_token`` samples beyond it, and trains on what follows.
    """
    stops = kwargs.get("eos_token_id")
    for config in (kwargs.get("generation_config"), model.generation_config):
        stops = getattr(config, "eos_token_id", None) if stops is None else stops
    if stops is None:
        return set()
    return {int(stops)} if isinstance(stops, int) else set(torch.as_tensor(stops).flatten().tolist())


def _of_tensors(
    prompts: torch.Tensor, mask: torch.Tensor | None, tokens: torch.Tensor, stop_tokens: AbstractSet[int]
) -> Sample | None:
    width = prompts.shape[1]
    if tokens.shape[1] <= width:
        return None
    prompt_mask = torch.ones_like(prompts) if mask is None else mask[: len(prompts)].to(prompts.dtype)
    ended = torch.zeros_like(tokens[:, width:])
    for stop in stop_tokens:
        ended = ended | (tokens[:, width:] == stop)
    # A token counts up to and including the first stop token of its sequence.
    alive = (torch.cumsum(ended.long(), 1) - ended.long()) == 0
    attention = torch.cat([prompt_mask, alive.to(prompt_mask.dtype)], 1)
    sampled = torch.cat([torch.zeros_like(prompt_mask, dtype=torch.bool), alive], 1)
    return Sample(tokens, attention, sampled)


def _of_requests(requests: Sequence[Any], device: torch.device) -> Sample | None:
    """Continuous batching answers with one ``GenerationOutput`` a request: lists of token ids, without padding."""
    prompts: list[list[int]] = [list(getattr(request, "prompt_ids", ())) for request in requests]
    answers: list[list[int]] = [list(getattr(request, "generated_tokens", ())) for request in requests]
    return sample_of(prompts, answers, device)


def sample_of(prompts: Sequence[list[int]], answers: Sequence[list[int]], device: torch.device) -> Sample | None:
    """Token ids of prompts and of what was sampled after each, without padding; None where there is nothing."""
    if not prompts or not all(prompts) or not any(answers):
        return None
    before, after = max(map(len, prompts)), max(map(len, answers))
    tokens = torch.full((len(prompts), before + after), _FILL, dtype=torch.long)
    attention = torch.zeros_like(tokens)
    sampled = torch.zeros_like(tokens, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        begin, end = before - len(prompt), before + len(answer)
        tokens[row, begin:end] = torch.tensor([*prompt, *answer])
        attention[row, begin:end] = 1
        sampled[row, before:end] = True
    return Sample(tokens.to(device), attention.to(device), sampled.to(device))
