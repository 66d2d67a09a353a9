"""Rewards for answers that can be checked: the right number, as GSM8K writes it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from ..errors import StageError
from .rules import completion_text

_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?")


def last_number(text: str) -> Decimal | None:
    """The last number after the last ``####`` (or in the whole text), thousands' commas and ``$`` taken off."""
    found = _NUMBER.findall(text.rpartition("####")[2])
    if not found:
        return None
    try:
        return Decimal(found[-1].replace(",", "").replace("$", ""))
    except InvalidOperation:
        return None


class RightNumber:
    """1 where the completion's last number is that of the row's right answer, else 0.

    Answers as in GSM8K (Cobbe et al., 2021), whose solutions end in ``#### number``; a completion without that mark is
    judged by its last number.

    Args:
        column: of the data set, with the right answers; numbers, or texts that hold one.
    """

    def __init__(self, column: str = "answer") -> None:
        self.columns = (column,)
        self.__name__ = "gsm8k" if column == "answer" else f"gsm8k_{column}"

    def __call__(self, completions: Sequence[Any], **given: Any) -> list[float]:
        column = self.columns[0]
        if column not in given:
            raise StageError(
                f"reward gsm8k compares with the data set's column {column!r}, which it was not given; name another by "
                "gsm8k:COLUMN"
            )
        pairs = zip(completions, given[column], strict=True)
        return [float(last_number(completion_text(answer)) == self._right(right)) for answer, right in pairs]

    def _right(self, answer: Any) -> Decimal:
        right = last_number(str(answer))
        if right is None:
            raise StageError(
                f"reward gsm8k: no number in the right answer {answer!r:.60} of column {self.columns[0]!r}"
            )
        return right
