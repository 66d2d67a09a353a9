"""Prompts for the stages: rows from a hub id, folder or (gzipped) JSONL file, a rule that cuts prompts, tokens."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from transformers import PreTrainedTokenizerBase

from mx_plugin.errors import nearest

from .errors import StageError

logger = logging.getLogger(__name__)

Prompt = str | list[dict[str, str]]
"""Text, or a list of ``{"role": ..., "content": ...}`` messages."""

_ASSISTANT, _HUMAN = "\n\nAssistant:", "\n\nHuman:"


# ---------------------------------------------------------------------------- rows


def read_rows(source: str, split: str = "train", config: str | None = None) -> Iterator[Mapping[str, Any]]:
    """Rows of a ``.jsonl``/``.jsonl.gz`` file, of a folder (saved by ``datasets`` or data files) or a hub dataset.

    Raises:
        StageError: missing file, a line that is no JSON object (with its number), unknown split, or a
            dataset that cannot be loaded.
    """
    path = Path(source)
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return _jsonl_rows(path)
    return iter(_loaded(source, split, config))


def _jsonl_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    if not path.is_file():
        raise StageError(f"dataset file {path} does not exist")
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _row(line, path, number)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise StageError(f"cannot read dataset {path}: {error}") from error


def _row(line: str, path: Path, number: int) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise StageError(f"{path}, line {number}: not JSON ({error.msg})") from error
    if not isinstance(row, dict):
        raise StageError(f"{path}, line {number}: expected a JSON object, found {type(row).__name__}")
    return row


def _loaded(source: str, split: str, config: str | None) -> Dataset:
    path = Path(source)
    saved = path.is_dir() and any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))
    try:
        data = load_from_disk(source) if saved else load_dataset(source, config, split=split)
    except Exception as error:  # datasets raises many types, some of them private
        where = "folder" if path.exists() else "hub dataset"
        raise StageError(f"cannot load {where} {source!r}, split {split!r}: {error}") from error
    if isinstance(data, DatasetDict):
        if split not in data:
            raise StageError(f"{source} has no split {split!r}: {nearest(split, data)}")
        data = data[split]
    return data


# ---------------------------------------------------------------------------- rules


def hh_prompt(dialogue: str) -> str:
    """Everything up to and including the last ``\\n\\nAssistant:`` of an hh-rlhf dialogue."""
    return dialogue[: dialogue.rindex(_ASSISTANT) + len(_ASSISTANT)]


def hh_messages(dialogue: str) -> list[dict[str, str]]:
    """The dialogue as chat messages that end with the human's last turn, so that the assistant speaks next.

    A few real dialogues have two turns of one speaker in a row: those are joined by a blank line.

    Raises:
        ValueError: no turn of a human before an assistant's.
    """
    messages: list[dict[str, str]] = []
    for chunk in hh_prompt(dialogue).split(_HUMAN)[1:]:
        human, *answers = chunk.split(_ASSISTANT)
        for role, text in (("user", human), *(("assistant", answer) for answer in answers)):
            _add_turn(messages, role, text.strip())
    while messages and messages[-1]["role"] == "assistant":
        messages.pop()
    if not messages:
        raise ValueError("no human's turn")
    return messages


def _add_turn(messages: list[dict[str, str]], role: str, text: str) -> None:
    if text and messages and messages[-1]["role"] == role:
        messages[-1]["content"] += f"\n\n{text}"
    elif text:
        messages.append({"role": role, "content": text})


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
) -> list[Prompt]:
    """At most ``limit`` prompts, in the order of the dataset, duplicates dropped.

    Raises:
        StageError: a row without the column (it lists those that exist) or with a value of another kind,
            a dialogue without an assistant's turn, or no prompts at all.
    """
    column, cut = prompt_rule(rule, words)
    prompts: dict[str, Prompt] = {}
    for number, row in enumerate(read_rows(source, split, config), start=1):
        if limit is not None and len(prompts) >= limit:
            break
        prompt = _cut(row, column, cut, f"{source}, row {number}")
        prompts.setdefault(json.dumps(prompt), prompt)
    if not prompts:
        raise StageError(f"dataset {source} (split {split!r}) has no rows, so there is nothing to prompt with")
    return list(prompts.values())


def _cut(row: Mapping[str, Any], column: str, cut: Callable[[Any], Prompt], where: str) -> Prompt:
    if column not in row:
        raise StageError(f"{where}: no column {column!r}; columns: {', '.join(row)}. Choose one with --prompt_from")
    try:
        prompt = cut(row[column])
    except (ValueError, AttributeError, TypeError) as error:
        raise StageError(f"{where}: column {column!r} does not fit the rule ({error})") from error
    if not prompt or not isinstance(prompt, (str, list)):
        raise StageError(f"{where}: column {column!r} holds {prompt!r}, not text or a list of messages")
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
