"""Prompts for the stages: a rule that cuts them from the rows of a data set, and their tokens."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from .data import Malformed, numbered_rows, read_rows
from .data.hh import hh_messages, hh_prompt
from .errors import StageError

__all__ = [
    "Prompt",
    "encode",
    "fitting_prompts",
    "hh_messages",
    "hh_prompt",
    "prompt_rule",
    "read_prompts",
    "read_rows",
]

logger = logging.getLogger(__name__)

Prompt = str | list[dict[str, str]]
"""Text, or a list of ``{"role": ..., "content": ...}`` messages."""


# ---------------------------------------------------------------------------- rules


def story_prompt(story: str, words: int) -> str:
    """The first ``words`` words of a story, as they stand in it."""
    return " ".join(story.split()[:words])


def prompt_rule(name: str, words: int) -> tuple[str, Callable[[Any], Prompt]]:
    """Column that a rule reads, and the function from its value to a prompt.

    ``hh`` and ``hh_chat`` read ``chosen``, ``story`` reads ``text``; any other name is a column taken as it is.
    """
    if name == "hh":
        return "chosen", hh_prompt
    if name == "hh_chat":
        return "chosen", hh_messages
    if name == "story":
        return "text", lambda story: story_prompt(story, words)
    return name, lambda value: value


def read_prompts(
    source: str,
    rule: str = "prompt",
    *,
    split: str = "train",
    config: str | None = None,
    words: int = 12,
    limit: int | None = None,
    on_malformed: str = "fatal",
) -> list[Prompt]:
    """At most ``limit`` prompts, in the order of the dataset, duplicates dropped.

    Args:
        on_malformed: ``fatal``, or ``skip``: warn, and leave out the rows that hold no prompt.

    Raises:
        StageError: rows without the column (it lists those that exist) or with a value of another kind,
            dialogues without an assistant's turn, lines that are no JSON; or no prompts at all.
    """
    column, cut = prompt_rule(rule, words)
    prompts: dict[str, Prompt] = {}
    malformed = Malformed(on_malformed)
    read = 0
    for read, row in enumerate(numbered_rows(source, split, config), start=1):
        if limit is not None and len(prompts) >= limit:
            read -= 1
            break
        try:
            if row.values is None:
                raise ValueError(row.fault)
            prompt = _cut(row.values, column, cut)
        except ValueError as error:
            malformed.report(row.where, str(error))
        else:
            prompts.setdefault(json.dumps(prompt), prompt)
    malformed.conclude(source, read)
    if not prompts:
        raise StageError(f"dataset {source} (split {split!r}) has no rows, so there is nothing to prompt with")
    return list(prompts.values())


def _cut(row: Mapping[str, Any], column: str, cut: Callable[[Any], Prompt]) -> Prompt:
    if column not in row:
        raise ValueError(f"no column {column!r}; columns: {', '.join(row)}. Choose one with --prompt_from")
    try:
        prompt = cut(row[column])
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"column {column!r} does not fit the rule ({error})") from error
    if not prompt or not isinstance(prompt, (str, list)):
        raise ValueError(f"column {column!r} holds {prompt!r}, not text or a list of messages")
    return prompt


# ---------------------------------------------------------------------------- tokens


def encode(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of a prompt; messages go through the chat template, with the assistant's opening.

    Raises:
        StageError: messages, and a tokenizer without chat template.
    """
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    if not tokenizer.chat_template:
        raise StageError(
            "the prompts are chat messages but the tokenizer has no chat template; "
            "use a tokenizer with one, or a column of plain text (for hh-rlhf: --prompt_from hh)"
        )
    text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def fitting_prompts(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerBase, longest: int, remedy: str = "--max_prompt_length"
) -> tuple[list[Prompt], list[list[int]]]:
    """Prompts of at most ``longest`` tokens, with their token ids; how many were dropped is logged.

    ``remedy``: what the user may raise.

    Raises:
        StageError: none fits.
    """
    tokens = [encode(prompt, tokenizer) for prompt in prompts]
    kept = [i for i, ids in enumerate(tokens) if len(ids) <= longest]
    if not kept:
        shortest = min(map(len, tokens))
        raise StageError(
            f"all {len(prompts)} prompts are longer than {longest} tokens (the shortest has {shortest}); "
            f"raise {remedy}, or choose other prompts"
        )
    if len(kept) < len(prompts):
        logger.warning("%d of %d prompts are longer than %d tokens and left out", len(prompts) - len(kept),
                       len(prompts), longest)  # fmt: skip
    return [prompts[i] for i in kept], [tokens[i] for i in kept]
