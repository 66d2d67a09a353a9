"""The recipe of an experiment: a stage and the words of its command line. Imports no framework."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..errors import StageError

_NO_PPO = (1, 13)


@dataclass(frozen=True)
class Recipe:
    """``stage`` with the words of its command line: ``--config`` with a file, and what overrides it."""

    stage: str
    words: tuple[str, ...]
    embedded_dir: str
    num_steps: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a process of its own."""
        return {"stage": self.stage, "words": list(self.words), "embedded_dir": self.embedded_dir,
                "num_steps": self.num_steps}  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """Read what ``to_dict`` gave."""
        return cls(data["stage"], tuple(data["words"]), data["embedded_dir"], data["num_steps"])


def installed_stage(asked: str | None) -> str:
    """The stage: what was asked for, else PPO where the installed TRL has it.

    Raises:
        StageError: PPO is asked for and the installed TRL has none.
    """
    found = version("trl")
    has_ppo = tuple(map(int, found.split(".")[:2])) < _NO_PPO
    if asked == "ppo" and not has_ppo:
        raise StageError(f"trl {found} has no PPOTrainer (1.12 is the last that has): pip install 'mx-plugin[ppo]'")
    return asked or ("ppo" if has_ppo else "grpo")


def embedded_words(stage: str) -> tuple[str, ...]:
    """The recipe of the embedded model: no network, no data."""
    return ("--config", str(Path(__file__).with_name(f"embedded_{stage}.yaml")))
