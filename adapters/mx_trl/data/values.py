"""What a column may hold: text, or messages; anything else is said as it was found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Text = str | list[dict[str, str]]
"""Text, or a list of ``{"role": ..., "content": ...}`` messages."""

_LONGEST_SHOWN = 60


def column(row: Mapping[str, Any], name: str) -> Any:
    """A column's value.

    Raises:
        ValueError: the row has no such column; names those that it has.
    """
    if name not in row:
        raise ValueError(f"no column {name!r}; columns: {', '.join(row) or 'none'}")
    return row[name]


def text(row: Mapping[str, Any], name: str) -> str:
    """A column of text that is not empty.

    Raises:
        ValueError: no such column, or another value.
    """
    value = column(row, name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"column {name!r} holds {shown(value)}, not text")
    return value


def messages(row: Mapping[str, Any], name: str) -> list[dict[str, str]]:
    """A column of chat messages, each with a role and text.

    Raises:
        ValueError: no such column, another value, no messages, or a message without role or content.
    """
    value = column(row, name)
    if not isinstance(value, list) or not value:
        raise ValueError(f"column {name!r} holds {shown(value)}, not a list of messages")
    for number, message in enumerate(value, start=1):
        known = isinstance(message, Mapping) and isinstance(message.get("role"), str)
        if not known or not isinstance(message.get("content"), str):
            raise ValueError(f"message {number} of column {name!r} is {shown(message)}: role and content are needed")
    return [{"role": message["role"], "content": message["content"]} for message in value]


def text_or_messages(row: Mapping[str, Any], name: str) -> Text:
    """A column of either kind.

    Raises:
        ValueError: as :func:`text` and :func:`messages`.
    """
    if isinstance(column(row, name), list):
        return messages(row, name)
    value = row[name]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"column {name!r} holds {shown(value)}, not text or a list of messages")
    return value


def of_one_kind(row: Mapping[str, Any], *names: str) -> list[Text]:
    """Columns of which all hold text, or all messages.

    Raises:
        ValueError: as :func:`text_or_messages`, and columns of both kinds.
    """
    found = [text_or_messages(row, name) for name in names]
    if len({type(value) for value in found}) > 1:
        kinds = ", ".join(f"{name}: {kind(value)}" for name, value in zip(names, found, strict=True))
        raise ValueError(f"text in one column and messages in another ({kinds})")
    return found


def kind(value: Any) -> str:
    """``messages`` or ``text``."""
    return "messages" if isinstance(value, list) else "text"


def shown(value: Any) -> str:
    """A value as a message may quote it: not longer than a line."""
    words = repr(value)
    return words if len(words) <= _LONGEST_SHOWN else f"{words[:_LONGEST_SHOWN]}..."
