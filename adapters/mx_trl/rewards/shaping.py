"""Reward shaping: scores relative to their running mean and deviation, and clipped; its state is saved with the run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object

from mx_plugin.execution.phases import TRACKER

from ..errors import StageError
from .rules import Rule, columns_of, rule_name


@dataclass
class RunningMoments:
    """Count, mean and sum of squared differences of all scores so far, in float64 (Welford, 1962; merged as in Chan,
    Golub and LeVeque, 1979)."""

    count: int = 0
    mean: float = 0.0
    m2: float = 0.0

    def add(self, scores: Sequence[float]) -> None:
        """Take scores in, one after the other: the same scores in the same order give the same bits."""
        for score in scores:
            self.count += 1
            delta = score - self.mean
            self.mean += delta / self.count
            self.m2 += delta * (score - self.mean)

    @property
    def std(self) -> float:
        """Sample standard deviation; 0 for fewer than two scores."""
        return math.sqrt(self.m2 / (self.count - 1)) if self.count > 1 else 0.0


class Shaping:
    """Scores become ``(score - mean) / std`` of all training scores so far, these included, then are clipped.

    While the trainer evaluates nothing is counted. Under several processes all of them count the scores of all.
    While there is no deviation yet (one score, or all alike) scores are only centred.

    Args:
        normalise: by the running mean and standard deviation.
        clip: to -clip .. clip, after normalising; None does not.

    Raises:
        StageError: ``clip`` is not above 0.
    """

    def __init__(self, normalise: bool = False, clip: float | None = None) -> None:
        if clip is not None and not clip > 0:
            raise StageError(f"clip_reward {clip} must be above 0: rewards are kept within -clip .. clip")
        self.normalise, self.clip = normalise, clip
        self.moments = RunningMoments()

    def __call__(self, scores: Sequence[float]) -> list[float]:
        """Shape one batch of scores; none may be NaN or infinite.

        Raises:
            StageError: a score that is, which would spoil the mean for ever.
        """
        for score in scores:
            if not math.isfinite(score):
                raise StageError(f"a reward of {score} cannot be shaped: it would stay in the running mean for ever")
        if self.normalise:
            if not TRACKER.is_evaluating:
                self.moments.add(_of_all_processes(scores))
            deviation = self.moments.std or 1.0
            scores = [(score - self.moments.mean) / deviation for score in scores]
        if self.clip is not None:
            scores = [min(max(score, -self.clip), self.clip) for score in scores]
        return list(scores)

    def state_dict(self) -> dict[str, float]:
        """Plain numbers: JSON brings them back bit for bit."""
        return {"count": self.moments.count, "mean": self.moments.mean, "m2": self.moments.m2}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave.

        Raises:
            StageError: it is not such a state.
        """
        try:
            self.moments = RunningMoments(int(state["count"]), float(state["mean"]), float(state["m2"]))
        except (KeyError, TypeError, ValueError) as error:
            raise StageError(
                f"{dict(state)!r:.80} is no state of reward shaping: count, mean and m2 are needed"
            ) from error


def _of_all_processes(scores: Sequence[float]) -> list[float]:
    if PartialState().num_processes == 1:
        return list(scores)
    return [float(score) for score in gather_object(list(scores))]


class ShapedRule:
    """A rule whose scores are shaped. ``shaping`` holds the state that a checkpoint keeps."""

    def __init__(self, rule: Rule, shaping: Shaping) -> None:
        self.rule, self.shaping = rule, shaping
        self.columns = columns_of(rule)
        self.__name__ = rule_name(rule)

    def __call__(self, completions: Sequence[Any], **given: Any) -> list[float]:
        return self.shaping(list(self.rule(completions=completions, **given)))
