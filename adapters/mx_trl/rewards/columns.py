"""Columns of the data set that a rule needs beside the prompt, such as the right answer: read, and found again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..data import numbered_rows
from ..errors import StageError
from ..prompts import Prompt, prompt_rule


def prompt_columns(
    prompts: Sequence[Prompt],
    columns: Sequence[str],
    source: str,
    rule: str,
    *,
    split: str = "train",
    config: str | None = None,
    words: int = 12,
) -> dict[str, list[Any]]:
    """For each of ``prompts``, which were cut from the data set by ``rule``, the values of ``columns`` in its row.

    Raises:
        StageError: a row without such a column, or one prompt with two different values.
    """
    if not columns:
        return {}
    found: dict[str, dict[str, Any]] = {}
    wanted = {json.dumps(prompt) for prompt in prompts}
    prompt_column, cut = prompt_rule(rule, words)
    for row in numbered_rows(source, split, config):
        try:
            prompt = json.dumps(cut((row.values or {})[prompt_column]))
        except (KeyError, ValueError, AttributeError, TypeError):
            continue  # read_prompts has reported it
        if prompt in wanted:
            values = _values(row.values or {}, columns, row.where)
            if found.setdefault(prompt, values) != values:
                raise StageError(f"{row.where}: its prompt stands in another row with other {', '.join(columns)}")
    return {column: [found[json.dumps(prompt)][column] for prompt in prompts] for column in columns}


def _values(row: Mapping[str, Any], columns: Sequence[str], where: str) -> dict[str, Any]:
    missing = [column for column in columns if column not in row]
    if missing:
        raise StageError(
            f"{where}: the reward needs the column {missing[0]!r}; columns: {', '.join(row)}. Name another, e.g. "
            "--reward gsm8k:COLUMN"
        )
    return {column: row[column] for column in columns}


class ColumnsByTokens:
    """Columns by a prompt's token ids: PPO hands its reward nothing else.

    Args:
        tokens: token ids of each prompt, without padding.
        columns: values by column, one per prompt.

    Raises:
        StageError: two prompts have the same tokens but other values.
    """

    def __init__(self, tokens: Sequence[Sequence[int]], columns: Mapping[str, Sequence[Any]]) -> None:
        self.names = tuple(columns)
        self._found: dict[tuple[int, ...], dict[str, Any]] = {}
        for number, ids in enumerate(tokens):
            values = {name: columns[name][number] for name in columns}
            if self._found.setdefault(tuple(ids), values) != values:
                raise StageError(f"prompt {number + 1} has the tokens of another with other {', '.join(self.names)}")

    def of(self, rows: Sequence[Sequence[int]]) -> dict[str, list[Any]]:
        """Values by column for these prompts.

        Raises:
            StageError: a prompt that is none of those.
        """
        if not self.names:
            return {}
        for ids in rows:
            if tuple(ids) not in self._found:
                raise StageError(f"a prompt of {len(ids)} tokens, {list(ids[:8])} ..., is none of the data set's")
        return {name: [self._found[tuple(ids)][name] for ids in rows] for name in self.names}
