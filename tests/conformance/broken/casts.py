"""Broken backends: casts that are wrong in one place."""

from __future__ import annotations

from typing import Any

import torch

from mx_cpu.reference import ReferenceBackend
from mx_plugin.formats import MXTensor, StochasticKey
from mx_plugin.interfaces import BoundCast
from tests.conformance.broken.collection import Collection
from tests.conformance.broken.products import misread

CASTS = Collection()


def repacked(packed: MXTensor, elements: torch.Tensor, scales: torch.Tensor) -> MXTensor:
    return MXTensor.from_codes(elements, scales, packed.format, packed.dim, packed.dtype)


class Spoiling(ReferenceBackend):
    """Casts as the reference does; :meth:`spoil` then changes float32 blocks that were rounded to nearest."""

    def quantize(self, x: Any, fmt: Any, dim: int = -1, **how: Any) -> MXTensor:
        packed = super().quantize(x, fmt, dim, **how)
        plain = x.dtype == torch.float32 and x.dim() == 2 and dim == -1 and x.shape[1] % 32 == 0
        if not plain or not x.numel() or how.get("rounding", "nearest") != "nearest":
            return packed
        blocks = x.reshape(-1, 32)
        elements, scales = packed.element_codes().reshape(-1, 32), packed.scale_codes().reshape(-1, 1)
        self.spoil(blocks, elements, scales, packed, how.get("scale_rule", "floor"))
        return repacked(packed, elements.view(x.shape), scales.view(x.shape[0], -1))

    def spoil(self, x: torch.Tensor, elements: torch.Tensor, scales: torch.Tensor, packed: MXTensor, rule: str) -> None:
        """Change codes in place: x and elements (blocks, 32), scales (blocks, 1)."""


def size_of(scales: torch.Tensor) -> torch.Tensor:
    return torch.exp2(scales.double() - 127)


@CASTS.caught_by("casts-ordinary")
class LogarithmsOfPowersOfTwo(Spoiling):
    """A logarithm just below a whole number."""

    def spoil(self, x: Any, elements: Any, scales: Any, packed: Any, rule: str) -> None:
        power = torch.frexp(x.abs().amax(1, keepdim=True)).mantissa == 0.5
        scales[power & (scales == 118)] -= 1


@CASTS.caught_by("casts-ties")
class TiesAwayFromZero(Spoiling):
    def spoil(self, x: Any, elements: Any, scales: Any, packed: Any, rule: str) -> None:
        away = self.codes_of(torch.nextafter(x, torch.copysign(torch.full_like(x, float("inf")), x)), packed, rule)
        towards = self.codes_of(torch.nextafter(x, torch.zeros_like(x)), packed, rule)
        tie = (away != towards) & (x == x.bfloat16().float()) & (x != 0)
        tie &= (x.abs() < x.abs().amax(1, keepdim=True))  # fmt: skip
        elements[tie] = away[tie]

    def codes_of(self, x: torch.Tensor, packed: MXTensor, rule: str) -> torch.Tensor:
        return ReferenceBackend.quantize(self, x, packed.format, scale_rule=rule).element_codes()


@CASTS.caught_by("casts-beside_ties")
class RoundsTwice(Spoiling):
    """By way of bfloat16, which pulls a value next to a tie onto it."""

    def spoil(self, x: Any, elements: Any, scales: Any, packed: Any, rule: str) -> None:
        near = x.bfloat16().float()
        step = torch.nextafter(near, x) == x
        codes = ReferenceBackend.quantize(self, torch.where(step, near, x), packed.format, scale_rule=rule)
        same = codes.scale_codes() == scales
        elements.copy_(torch.where(step & same, codes.element_codes(), elements))


@CASTS.caught_by("casts-saturation")
class CarriesOut(Spoiling):
    """Rounding up the largest mantissa carries into nothing."""

    def spoil(self, x: Any, elements: Any, scales: Any, packed: Any, rule: str) -> None:
        element = packed.format.element
        if rule == "floor":
            elements[x.abs().double() / size_of(scales) >= 1.99999 * 2.0**element.emax] = 0


@CASTS.caught_by("casts-saturation", alone=False)
class SaturatesToTheSecondLargest(Spoiling):
    def spoil(self, x: Any, elements: Any, scales: Any, packed: Any, rule: str) -> None:
        elements[x.abs().double() / size_of(scales) > packed.format.element.max] -= 1


@CASTS.caught_by("casts-subnormals")
class NothingIsTooSmall(Spoiling):
    """What is too small becomes the smallest element."""

    def spoil(self, x: Any, elements: Any, scales: Any, packed: Any, rule: str) -> None:
        small = x.abs().double() / size_of(scales) < 2.0 ** (packed.format.element.emin - 40)
        elements[small & (x > 0)] = 1


@CASTS.caught_by("casts-zeros")
class ZerosHaveScaleOne(Spoiling):
    def spoil(self, x: Any, elements: Any, scales: Any, packed: Any, rule: str) -> None:
        scales[(x == 0).all(1)] = 127


@CASTS.caught_by("casts-smallest_scales")
class SmallestScaleIsOne(Spoiling):
    def spoil(self, x: Any, elements: Any, scales: Any, packed: Any, rule: str) -> None:
        scales[(scales[:, 0] == 0) & (x != 0).any(1)] = 1


@CASTS.caught_by("casts-largest_scales")
class LargestScalesAreClamped(Spoiling):
    def spoil(self, x: Any, elements: Any, scales: Any, packed: Any, rule: str) -> None:
        scales[(scales >= 235) & (scales < 255)] = 234


@CASTS.caught_by("casts-rceil")
class RceilIsFloor(ReferenceBackend):
    def quantize(self, x: Any, fmt: Any, dim: int = -1, **how: Any) -> MXTensor:
        ordinary = x.numel() and x.abs().max() < 1e30
        if ordinary and how.get("scale_rule") == "rceil" and how.get("rounding", "nearest") == "nearest":
            how["scale_rule"] = "floor"
        return super().quantize(x, fmt, dim, **how)


@CASTS.caught_by("casts-even")
class EvenIsFloor(ReferenceBackend):
    def quantize(self, x: Any, fmt: Any, dim: int = -1, **how: Any) -> MXTensor:
        if how.get("scale_rule") == "even":
            how["scale_rule"] = "floor"
        return super().quantize(x, fmt, dim, **how)


@CASTS.caught_by("casts-not_a_number")
class MinusInfinityIsANumber(ReferenceBackend):
    def quantize(self, x: Any, fmt: Any, dim: int = -1, **how: Any) -> MXTensor:
        return super().quantize(torch.where(x == float("-inf"), -3e38, x).to(x.dtype), fmt, dim, **how)


@CASTS.caught_by("casts-dimensions")
class WholeBlocksAlongOut(ReferenceBackend):
    def quantize(self, x: Any, fmt: Any, dim: int = -1, **how: Any) -> MXTensor:
        if dim == 0 and x.shape[0] % 32:
            raise NotImplementedError("whole blocks only")
        return super().quantize(x, fmt, dim, **how)


@CASTS.caught_by("casts-strided")
class IgnoresStrides(ReferenceBackend):
    def quantize(self, x: Any, fmt: Any, dim: int = -1, **how: Any) -> MXTensor:
        return super().quantize(misread(x), fmt, dim, **how)


@CASTS.caught_by("casts-dtypes")
class ForgetsTheDtype(ReferenceBackend):
    def quantize(self, x: Any, fmt: Any, dim: int = -1, **how: Any) -> MXTensor:
        narrow = x.dtype in (torch.bfloat16, torch.float16)
        return super().quantize(x.float() if narrow else x, fmt, dim, **how)


@CASTS.caught_by("casts-stochastic")
class DrawsFromAnotherStream(ReferenceBackend):
    def quantize(self, x: Any, fmt: Any, dim: int = -1, *, key: StochasticKey | None = None, **how: Any) -> MXTensor:
        if key is not None and how.get("rounding") == "stochastic":
            key = StochasticKey(key.seed, 0, key.stream, key.call)
        return super().quantize(x, fmt, dim, key=key, **how)


@CASTS.caught_by("casts-a_key_alone_draws_nothing")
class AKeyMeansStochastic(ReferenceBackend):
    def quantize(self, x: Any, fmt: Any, dim: int = -1, *, key: StochasticKey | None = None, **how: Any) -> MXTensor:
        if key is not None and key.seed:
            how["rounding"] = "stochastic"
        return super().quantize(x, fmt, dim, key=key, **how)


@CASTS.caught_by("casts-random_blocks")
class SomeScalesAreOff(Spoiling):
    def spoil(self, x: Any, elements: Any, scales: Any, packed: Any, rule: str) -> None:
        scales[(scales > 94) & (scales < 105)] += 1


@CASTS.caught_by("casts-decodes")
class DecodesElsewhere(ReferenceBackend):
    def dequantize(self, packed: MXTensor, dtype: torch.dtype, out: torch.Tensor | None = None) -> torch.Tensor:
        return packed.dequantize(dtype)


@CASTS.caught_by("casts-inputs_stay")
class NormalisesZerosInPlace(ReferenceBackend):
    def quantize(self, x: Any, fmt: Any, dim: int = -1, **how: Any) -> MXTensor:
        packed = super().quantize(x, fmt, dim, **how)
        if x.is_contiguous() and not x.requires_grad:
            x += 0.0
        return packed


# ---------------------------------------------------------------------------- training casts


@CASTS.caught_by("training_casts-golden_values")
class FlushesSubnormals(ReferenceBackend):
    def fake_quantize(self, x: Any, fmt: str, dim: int = -1, **how: Any) -> torch.Tensor:
        y = super().fake_quantize(x, fmt, dim, **how)
        tiny = (y.abs() < 2.0**-126) & (y != 0)
        return y.masked_fill_(tiny, 0.0) if tiny.any() else y


@CASTS.caught_by("training_casts-not_a_number")
class HidesNaN(ReferenceBackend):
    def fake_quantize(self, x: Any, fmt: str, dim: int = -1, **how: Any) -> torch.Tensor:
        y = super().fake_quantize(x, fmt, dim, **how)
        return y.masked_fill_(y.isnan(), 0.0)


@CASTS.caught_by("training_casts-dimensions")
class MatricesOnly(ReferenceBackend):
    def fake_quantize(self, x: Any, fmt: str, dim: int = -1, **how: Any) -> torch.Tensor:
        if x.dim() > 2:
            raise NotImplementedError("matrices only")
        return super().fake_quantize(x, fmt, dim, **how)


@CASTS.caught_by("training_casts-dtypes")
class AnswersInFloat32(ReferenceBackend):
    def fake_quantize(self, x: Any, fmt: str, dim: int = -1, **how: Any) -> torch.Tensor:
        y = super().fake_quantize(x, fmt, dim, **how)
        return y.float() if how.get("out") is None else y


@CASTS.caught_by("training_casts-into_out")
class IgnoresOut(ReferenceBackend):
    def fake_quantize(self, x: Any, fmt: str, dim: int = -1, *, out: Any = None, **how: Any) -> torch.Tensor:
        return super().fake_quantize(x, fmt, dim, **how)


@CASTS.caught_by("training_casts-strided")
class IgnoresStridesInTraining(ReferenceBackend):
    def fake_quantize(self, x: Any, fmt: str, dim: int = -1, **how: Any) -> torch.Tensor:
        return super().fake_quantize(misread(x), fmt, dim, **how)


@CASTS.caught_by("training_casts-stochastic")
class DrawsTheSameEachStep(ReferenceBackend):
    def fake_quantize(self, x: Any, fmt: str, dim: int = -1, *, key: Any = None, **how: Any) -> torch.Tensor:
        if key is not None and dim == -1:
            key = StochasticKey(key.seed, 0, key.stream, key.call)
        return super().fake_quantize(x, fmt, dim, key=key, **how)


@CASTS.caught_by("training_casts-hadamard")
class TurnsNothing(ReferenceBackend):
    def fake_quantize(self, x: Any, fmt: str, dim: int = -1, *, hadamard: Any = None, **how: Any) -> torch.Tensor:
        return super().fake_quantize(x, fmt, dim, **how)


@CASTS.caught_by("training_casts-bound_cast")
class BindsToNearest(ReferenceBackend):
    def bind_cast(self, fmt: str, dim: int = -1, *, rounding: str = "nearest", scale_rule: str = "floor") -> BoundCast:
        return super().bind_cast(fmt, dim, rounding="nearest", scale_rule=scale_rule)


@CASTS.caught_by("training_casts-inputs_stay")
class NormalisesOperandsInPlace(ReferenceBackend):
    def fake_quantize(self, x: Any, fmt: str, dim: int = -1, **how: Any) -> torch.Tensor:
        y = super().fake_quantize(x, fmt, dim, **how)
        if x.is_contiguous() and not x.requires_grad and not x.is_inference():
            x += 0.0
        return y
