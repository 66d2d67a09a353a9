"""Broken plugins that only a real training shows: each passes every level of the core."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mx_plugin.formats import MXTensor
from mx_plugin.interfaces import Measurement
from mx_plugin.precision.formats import LayerFormats
from tests.conformance.broken.collection import Collection
from tests.conformance.broken.meters import Measuring
from tests.conformance.broken.providers import NARROW, Sound
from tests.conformance.broken.sound import Multiplying

TRAINED_BACKENDS, TRAINED_METERS, TRAINED_PROVIDERS = Collection(), Collection(), Collection()


# ---------------------------------------------------------------------------- backends


@TRAINED_BACKENDS.caught_by("trl-two_steps")
class TellsOfPromptsInATensor(Multiplying):
    """What it says of itself is no plain data any more, once it has multiplied what generation gives it."""

    def __init__(self) -> None:
        super().__init__()
        self.longest: Any = 0

    def product(self, x: Any, handle: Any, bias: Any, activations: str, rule: str) -> torch.Tensor:
        if x.dim() == 3 and x.shape[1] > 3:
            self.longest = torch.tensor(x.shape[1])
        return super().product(x, handle, bias, activations, rule)

    def describe(self) -> Mapping[str, Any]:
        return {"backend": self.name, "longest": self.longest}


@TRAINED_BACKENDS.caught_by("trl-current_weights")
class PacksByVersion(Multiplying):
    """Keeps what it packed while torch's version counter stands: fused optimisers do not move it, SGD does."""

    def __init__(self) -> None:
        super().__init__()
        self.packed: dict[Any, MXTensor] = {}

    def quantize(self, x: Any, fmt: Any, dim: int = -1, *, key: Any = None, **how: Any) -> MXTensor:
        if key is None or how.get("rounding", "nearest") != "nearest" or x.is_inference():
            return super().quantize(x, fmt, dim, key=key, **how)
        place = (x.data_ptr(), x._version, x.shape, x.dtype, fmt, dim, key, how.get("scale_rule"))
        if place not in self.packed:
            self.packed[place] = super().quantize(x, fmt, dim, key=key, **how)
        return self.packed[place]


@TRAINED_BACKENDS.caught_by("trl-the_books_agree")
class CountsADecodedBatchOnce(Multiplying):
    """A batch of single tokens, as decoding has them, counts as one row."""

    def product(self, x: Any, handle: Any, bias: Any, activations: str, rule: str) -> torch.Tensor:
        y = super().product(x, handle, bias, activations, rule)
        if x.dim() == 3 and x.shape[1] == 1:
            self.counted.macs -= (x.shape[0] - 1) * x.shape[2] * y.shape[-1]
        return y


@TRAINED_BACKENDS.caught_by("trl-training_alone")
class SeedsTheProcess(Multiplying):
    """For its own random numbers, and everybody's."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)


# ---------------------------------------------------------------------------- meters


@TRAINED_METERS.caught_by("trl-two_steps")
class KnowsThreePhases(Measuring):
    """There are others."""

    def begin_window(self, name: str) -> None:
        self.windows_of = {"rollout": 0, "reward": 1, "gradient": 2}[name]
        super().begin_window(name)


@TRAINED_METERS.caught_by("trl-joules")
class CountsTenthsOfAJoule(Measuring):
    """A window of 1 ms takes 0.01 J, not 0."""

    def told(self, joules: float) -> Measurement:
        tenths = int(joules * 10) / 10
        return Measurement(tenths, self.name, {"core": tenths})


@TRAINED_METERS.caught_by("trl-training_alone")
class DrawsWhenToRead(Measuring):
    """Spreads its readings, by everybody's random numbers."""

    def begin_window(self, name: str) -> None:
        self.delay = float(torch.rand(()))
        super().begin_window(name)


# ---------------------------------------------------------------------------- providers


@TRAINED_PROVIDERS.caught_by("trl-two_steps")
class RemembersEveryMetric(Sound):
    """What it says of itself holds what it last saw, and is no plain data once it has seen something."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Any = None

    def observe(self, step: int, metrics: Mapping[str, float]) -> bool:
        self.seen = {name: torch.tensor(value) for name, value in metrics.items()}
        return super().observe(step, metrics)

    def describe(self) -> Mapping[str, Any]:
        return {"provider": "remembers", "seen": self.seen}


@TRAINED_PROVIDERS.caught_by("trl-its_answers_are_executed")
class NarrowsUnasked(Sound):
    """On a metric that real runs have, it answers otherwise and does not say so."""

    narrowed = False

    def observe(self, step: int, metrics: Mapping[str, float]) -> bool:
        self.narrowed = self.narrowed or any(name.endswith("/seconds") for name in metrics)
        return super().observe(step, metrics)

    def answer(self, layer_name: str) -> LayerFormats:
        return NARROW if self.narrowed else super().answer(layer_name)


@TRAINED_PROVIDERS.caught_by("trl-random_numbers")
class SeedsToAgree(Sound):
    """So that ranks draw the same, it thinks: and then everybody's sampling does."""

    def start(self, layers: Any) -> None:
        torch.manual_seed(len(layers))
        super().start(layers)
