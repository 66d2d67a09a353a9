"""From a data set to batches: prompts with the model's own continuations, and preference pairs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mx_plugin.sensitivity import Batch

from ..errors import StageError
from ..prompts import encode, read_rows

logger = logging.getLogger(__name__)

Pair = tuple[list[int], list[int]]
"""Token ids of the chosen and of the rejected text."""


def prompt_rule_of(row: Mapping[str, Any]) -> str:
    """``auto``: which rule of ``prompts.prompt_rule`` fits a data set whose first row this is.

    Raises:
        StageError: none does.
    """
    for column in ("prompt", "question"):
        if column in row:
            return column
    if isinstance(row.get("chosen"), str):
        return "hh"
    if "text" in row:
        return "story"
    raise StageError(
        f"no column of the data set is known to hold prompts ({', '.join(row)}): name one by --prompt_from"
    )


def first_row(source: str, split: str, config: str | None) -> Mapping[str, Any]:
    """The first row of a data set.

    Raises:
        StageError: it has none, or cannot be read.
    """
    row = next(iter(read_rows(source, split, config)), None)
    if row is None:
        raise StageError(f"dataset {source} (split {split!r}) has no rows, so there is nothing to profile on")
    return row


# ---------------------------------------------------------------------------- sequences


def continued(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    *,
    new_tokens: int,
    batch_size: int,
    seed: int,
) -> list[list[int]]:
    """Each prompt with at most ``new_tokens`` sampled by the unquantised policy (temperature 1), its end included."""
    if new_tokens == 0:
        return [list(ids) for ids in prompts]
    ends = policy.generation_config.eos_token_id
    stop = set() if ends is None else {ends} if isinstance(ends, int) else set(ends)
    found = []
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for rows in _chunks(prompts, batch_size):
            width = max(map(len, rows))
            padded = [[tokenizer.pad_token_id] * (width - len(ids)) + ids for ids in rows]
            tokens = torch.tensor(padded, device=policy.device)
            mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in rows], device=policy.device)
            made = policy.generate(
                input_ids=tokens,
                attention_mask=mask,
                max_new_tokens=new_tokens,
                do_sample=True,
                temperature=1.0,
                top_k=0,
            )
            found += [ids + _until(made[row, width:].tolist(), stop) for row, ids in enumerate(rows)]
    return found


def _until(tokens: list[int], stop: set[int]) -> list[int]:
    """Up to the first token that ends a response, which counts."""
    for position, token in enumerate(tokens):
        if token in stop:
            return tokens[: position + 1]
    return tokens


def batches_of(sequences: Sequence[list[int]], pad: int, batch_size: int, **further: Any) -> list[Batch]:
    """Sequences padded on the right; every real token counts. ``further``: inputs such as ``use_cache``."""
    found = []
    for rows in _chunks(sequences, batch_size):
        width = max(map(len, rows))
        tokens = torch.tensor([ids + [pad] * (width - len(ids)) for ids in rows])
        mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in rows])
        found.append(Batch({"input_ids": tokens, "attention_mask": mask, **further}))
    return found


def _chunks(items: Sequence[list[int]], size: int) -> Iterator[list[list[int]]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


# ---------------------------------------------------------------------------- preferences


def has_pairs(row: Mapping[str, Any]) -> bool:
    """Whether a data set whose first row this is holds preferences."""
    return "chosen" in row and "rejected" in row


def read_pairs(
    source: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    split: str,
    config: str | None,
    limit: int,
    longest: int,
) -> list[Pair]:
    """The first ``limit`` preferences of which both texts have at most ``longest`` tokens.

    ``chosen`` and ``rejected`` are whole texts (hh-rlhf), texts or messages that continue ``prompt``.

    Raises:
        StageError: no preferences, or none that fits.
    """
    row = first_row(source, split, config)
    if not has_pairs(row):
        raise StageError(
            f"dataset {source} has no preferences: columns {', '.join(row)}; chosen and rejected are needed"
        )
    pairs: list[Pair] = []
    left_out, shortest = 0, None
    for number, row in enumerate(read_rows(source, split, config), start=1):
        if len(pairs) == limit:
            break
        pair = (_answer(row, "chosen", tokenizer, number), _answer(row, "rejected", tokenizer, number))
        length = max(map(len, pair))
        shortest = length if shortest is None else min(shortest, length)
        if length <= longest:
            pairs.append(pair)
        else:
            left_out += 1
    if not pairs:
        raise StageError(
            f"all {left_out} preferences of {source} are longer than {longest} tokens (the shortest has {shortest}); "
            "raise --max_length, or choose others by --pairs"
        )
    if left_out:
        logger.warning("%d preferences are longer than %d tokens and left out", left_out, longest)
    return pairs


def _answer(row: Mapping[str, Any], column: str, tokenizer: PreTrainedTokenizerBase, number: int) -> list[int]:
    prompt, answer = row.get("prompt"), row.get(column)
    if isinstance(answer, list):
        messages = [*(prompt if isinstance(prompt, list) else []), *answer]
        if not tokenizer.chat_template:
            return encode("\n\n".join(str(message.get("content", "")) for message in messages), tokenizer)
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    if not isinstance(answer, str) or not answer:
        raise StageError(f"row {number}: {column} holds {answer!r}, not text or a list of messages")
    return encode((prompt if isinstance(prompt, str) else "") + answer, tokenizer)


def paired_batches(pairs: Sequence[Pair], pad: int, batch_size: int, **further: Any) -> list[tuple[Batch, Batch]]:
    """(chosen, rejected) batches, row by row the two texts of one preference."""
    found = []
    for start in range(0, len(pairs), batch_size):
        rows = pairs[start : start + batch_size]
        sides = [batches_of([pair[side] for pair in rows], pad, len(rows), **further)[0] for side in (0, 1)]
        found.append((sides[0], sides[1]))
    return found
