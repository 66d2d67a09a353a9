"""How often a training step calls a layer, and with how many rows: what energy and seconds are counted over."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from ...errors import MXError, nearest
from ..patterns import names_lm_head

Calls = tuple[tuple[int, int], ...]
"""((rows of a call, number of such calls), ...)."""


@dataclass(frozen=True)
class Recipe:
    """One step of PPO: ``batch_size`` prompts are answered, every answer is scored, then trained on ``epochs`` times.

    The last token of an answer is sampled but not fed again. Scoring and training take ``micro_batch_size``
    sequences of ``prompt_tokens + response_tokens`` at a time, without padding.

    Raises:
        MXError: a size that is not a whole number of 1 or more.
    """

    batch_size: int = 64
    prompt_tokens: int = 128
    response_tokens: int = 128
    micro_batch_size: int = 8
    epochs: int = 4

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise MXError(f"{field.name} is {value!r}; a recipe takes whole numbers of 1 or more")

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Recipe:
        """From ``["batch_size=16", "epochs=1"]``; what is not named keeps its default.

        Raises:
            MXError: not ``name=number``, an unknown name, or a size that cannot be.
        """
        given: dict[str, int] = {}
        for text in texts:
            name, _, value = text.partition("=")
            known = [field.name for field in fields(cls)]
            if name not in known:
                raise MXError(f"--recipe {text!r}: {nearest(name, known)}")
            try:
                given[name] = int(value)
            except ValueError:
                raise MXError(f"--recipe {text!r}: {value!r} is not a whole number; write e.g. {name}=16") from None
        return cls(**given)

    def calls(self, phase: str, layer: str = "") -> Calls:
        """Calls of one layer in one step. An lm_head sees only the last token of a prompt (generate slices)."""
        if phase == "rollout":
            prompt_rows = self.batch_size * (1 if names_lm_head(layer) else self.prompt_tokens)
            return _merged([(prompt_rows, 1), (self.batch_size, self.response_tokens - 1)])
        full, rest = divmod(self.batch_size, self.micro_batch_size)
        length = self.prompt_tokens + self.response_tokens
        times = self.epochs if phase == "gradient" else 1
        return _merged([(self.micro_batch_size * length, full * times), (rest * length, times if rest else 0)])

    def tokens(self, phase: str) -> int:
        """Rows that an ordinary layer sees in one step."""
        return sum(rows * calls for rows, calls in self.calls(phase))

    def __str__(self) -> str:
        return ", ".join(f"{field.name} {getattr(self, field.name)}" for field in fields(self))


def _merged(calls: list[tuple[int, int]]) -> Calls:
    merged: dict[int, int] = {}
    for rows, count in calls:
        if count:
            merged[rows] = merged.get(rows, 0) + count
    return tuple(merged.items())
