"""Reads a data set's rows into examples of one form, counting what does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from ..errors import StageError
from .completions import Convert, Example
from .malformed import Malformed
from .rows import numbered_rows
from .values import kind


class Form(Protocol):
    """Knows how rows become examples, once it has seen the first."""

    def converter(self, row: Mapping[str, Any]) -> Convert:
        """The function from a row to an example; raises ValueError for one that does not fit."""
        ...


def read_examples(
    source: str,
    form: Form,
    *,
    split: str = "train",
    config: str | None = None,
    limit: int | None = None,
    on_malformed: str = "fatal",
) -> list[Example]:
    """At most ``limit`` examples, in the order of the data set, all of one form and kind (text or messages).

    Raises:
        StageError: malformed rows that are fatal; a form that does not know the columns; no examples at all; or what
            :func:`~mx_trl.data.rows.numbered_rows` raises.
    """
    malformed = Malformed(on_malformed)
    examples: list[Example] = []
    convert: Convert | None = None
    read = 0
    for row in numbered_rows(source, split, config):
        if limit is not None and len(examples) >= limit:
            break
        read += 1
        if row.values is None:
            malformed.report(row.where, row.fault)
            continue
        if convert is None:
            convert = _first(form, row.values, row.where)
        try:
            examples.append(_like_the_first(convert(row.values), examples))
        except ValueError as error:
            malformed.report(row.where, str(error))
    malformed.conclude(source, read)
    if not examples:
        raise StageError(f"dataset {source} (split {split!r}) has no examples to learn from")
    return examples


def _first(form: Form, row: Mapping[str, Any], where: str) -> Convert:
    try:
        return form.converter(row)
    except ValueError as error:
        raise StageError(f"{where}: {error}") from error


def _like_the_first(example: Example, examples: list[Example]) -> Example:
    """TRL decides by its first row how it reads them all."""
    if not examples:
        return example
    first = examples[0]
    if first.keys() != example.keys():
        raise ValueError(f"gives {', '.join(example)}, but the first example {', '.join(first)}")
    for name, value in example.items():
        if kind(value) != kind(first[name]):
            raise ValueError(f"{name} is {kind(value)}, but {kind(first[name])} in the first example")
    return example
