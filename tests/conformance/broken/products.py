"""Broken backends: products that are wrong, or not the same again."""

from __future__ import annotations

import time
from collections import Counter
from itertools import count
from typing import Any

import torch

from mx_plugin.errors import PluginError
from mx_plugin.formats import MXTensor
from mx_plugin.formats.spec import FP16, SCALE_RULES
from mx_plugin.interfaces import BoundLinear, Exactness
from tests.conformance.broken.collection import Collection
from tests.conformance.broken.sound import Multiplying, Weight

PRODUCTS = Collection()
ROUGHLY = Exactness(bound=2e-6)


def misread(x: torch.Tensor) -> torch.Tensor:
    """Every second element was meant; the first half is read."""
    return x if x.stride(-1) != 2 else torch.as_strided(x, x.shape, (x.shape[-1], 1)).clone()


def one_ulp_up(y: torch.Tensor) -> torch.Tensor:
    return torch.nextafter(y, torch.full_like(y, float("inf")))


# ---------------------------------------------------------------------------- multiplies


@PRODUCTS.caught_by("multiplies-every_pair")
class OnePairIsWrong(Multiplying):
    exactness = ROUGHLY

    def product(self, x: Any, handle: Any, bias: Any, activations: str, rule: str) -> torch.Tensor:
        y = super().product(x, handle, bias, activations, rule)
        return y * 1.001 if (handle.fmt, activations) == ("MXINT8", "MXFP4") else y


@PRODUCTS.caught_by("multiplies-bit_exact")
class NotQuiteExact(Multiplying):
    def product(self, x: Any, handle: Any, bias: Any, activations: str, rule: str) -> torch.Tensor:
        return one_ulp_up(super().product(x, handle, bias, activations, rule))


@PRODUCTS.caught_by("multiplies-unquantised_activations")
class CastsAllTheSame(Multiplying):
    def product(self, x: Any, handle: Any, bias: Any, activations: str, rule: str) -> torch.Tensor:
        return super().product(x, handle, bias, "MXFP8" if activations == FP16 else activations, rule)


@PRODUCTS.caught_by("multiplies-bias")
class ForgetsTheBiasOfSmallLayers(Multiplying):
    def product(self, x: Any, handle: Any, bias: Any, activations: str, rule: str) -> torch.Tensor:
        small = isinstance(handle, Weight) and handle.shape[0] < 32
        return super().product(x, handle, None if small else bias, activations, rule)


@PRODUCTS.caught_by("multiplies-bias", alone=False)
class ForgetsTheBias(Multiplying):
    def product(self, x: Any, handle: Any, bias: Any, activations: str, rule: str) -> torch.Tensor:
        return super().product(x, handle, None, activations, rule)


@PRODUCTS.caught_by("multiplies-scale_rules")
class IgnoresTheScaleRule(Multiplying):
    def product(self, x: Any, handle: Any, bias: Any, activations: str, rule: str) -> torch.Tensor:
        return super().product(x, handle, bias, activations, "floor" if rule in SCALE_RULES else rule)


@PRODUCTS.caught_by("multiplies-leading_dimensions")
class AddsADimension(Multiplying):
    def product(self, x: Any, handle: Any, bias: Any, activations: str, rule: str) -> torch.Tensor:
        y = super().product(x, handle, bias, activations, rule)
        return y[None] if x.dim() == 1 else y


@PRODUCTS.caught_by("multiplies-no_rows")
class NeedsARow(Multiplying):
    def product(self, x: Any, handle: Any, bias: Any, activations: str, rule: str) -> torch.Tensor:
        if not x.numel():
            raise RuntimeError("cannot reshape tensor of 0 elements")
        return super().product(x, handle, bias, activations, rule)


@PRODUCTS.caught_by("multiplies-ragged_features")
class DropsTheLastBlock(Multiplying):
    def product(self, x: Any, handle: Any, bias: Any, activations: str, rule: str) -> torch.Tensor:
        if x.shape[-1] % 32:
            x = x.clone()
            x[..., x.shape[-1] // 32 * 32 :] = 0
        return super().product(x, handle, bias, activations, rule)


@PRODUCTS.caught_by("multiplies-strided")
class IgnoresStrides(Multiplying):
    def product(self, x: Any, handle: Any, bias: Any, activations: str, rule: str) -> torch.Tensor:
        return super().product(misread(x), handle, bias, activations, rule)


@PRODUCTS.caught_by("multiplies-dtypes")
class AnswersInFloat32(Multiplying):
    def product(self, x: Any, handle: Any, bias: Any, activations: str, rule: str) -> torch.Tensor:
        return super().product(x.float(), handle, bias, activations, rule)


@PRODUCTS.caught_by("multiplies-not_a_number")
class SwallowsNaN(Multiplying):
    def product(self, x: Any, handle: Any, bias: Any, activations: str, rule: str) -> torch.Tensor:
        return super().product(x, handle, bias, activations, rule).nan_to_num()


@PRODUCTS.caught_by("multiplies-extreme_scales")
class FlushesSubnormals(Multiplying):
    def load_weight(self, packed: MXTensor) -> Any:
        weight = super().load_weight(packed)
        weight.values[weight.values.abs() < 2.0**-126] = 0
        return weight


class _Own(MXTensor):
    __slots__ = ()


@PRODUCTS.caught_by("multiplies-weights_of_others")
class KnowsItsOwnWeightsOnly(Multiplying):
    def quantize(self, x: Any, fmt: Any, dim: int = -1, **more: Any) -> MXTensor:
        packed = super().quantize(x, fmt, dim, **more)
        return _Own(packed.elements, packed.scales, packed.format, packed.shape, packed.dim, packed.dtype)

    def load_weight(self, packed: MXTensor) -> Any:
        if not isinstance(packed, _Own) and packed.shape[0] == 24:
            raise PluginError("packed by somebody else")
        return super().load_weight(packed)


@PRODUCTS.caught_by("multiplies-bound_linear")
class BindsWithoutTheScaleRule(Multiplying):
    def bind(self, handle: Any, activations: str, scale_rule: str) -> BoundLinear:
        return super().bind(handle, activations, "floor")


@PRODUCTS.caught_by("multiplies-inputs_stay")
class WritesIntoX(Multiplying):
    def product(self, x: Any, handle: Any, bias: Any, activations: str, rule: str) -> torch.Tensor:
        y = super().product(x, handle, bias, activations, rule)
        if not x.is_inference() and not x.requires_grad:
            x += 0.0
        return y


# ---------------------------------------------------------------------------- repeats


@PRODUCTS.caught_by("repeats-products")
class TunesItself(Multiplying):
    """Takes another order of additions once the same call has come often."""

    exactness = ROUGHLY

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[tuple[Any, ...]] = Counter()

    def linear(self, x: Any, handle: Any, bias: Any = None, activations: str = "MXFP8", **rule: Any) -> torch.Tensor:
        y = super().linear(x, handle, bias, activations, **rule)
        call = (x.data_ptr(), id(handle), bias is None, activations, *rule.items())
        self.calls[call] += 1
        return y if self.calls[call] < 9 else one_ulp_up(y)


@PRODUCTS.caught_by("multiplies-bit_exact", alone=False)
class AddsNoise(Multiplying):
    def product(self, x: Any, handle: Any, bias: Any, activations: str, rule: str) -> torch.Tensor:
        y = super().product(x, handle, bias, activations, rule)
        return y + torch.randn_like(y) * 1e-7


@PRODUCTS.caught_by("multiplies-ragged_features", alone=False)
class AddsNoiseWithinItsBound(AddsNoise):
    exactness = ROUGHLY


@PRODUCTS.caught_by("repeats-casts")
class CastsOtherwiseLater(Multiplying):
    last: Any = None
    times = 0

    def fake_quantize(self, x: Any, fmt: str, dim: int = -1, **more: Any) -> torch.Tensor:
        y = super().fake_quantize(x, fmt, dim, **more)
        this = (x.data_ptr(), x.shape, fmt)
        self.last, self.times = this, self.times + 1 if this == self.last else 0
        return y if self.times < 8 else y * 0.5


@PRODUCTS.caught_by("repeats-results_stay")
class ReturnsItsBuffer(Multiplying):
    def __init__(self) -> None:
        super().__init__()
        self.buffers: dict[Any, torch.Tensor] = {}

    def product(self, x: Any, handle: Any, bias: Any, activations: str, rule: str) -> torch.Tensor:
        y = super().product(x, handle, bias, activations, rule)
        if y.shape[-1] != 24:
            return y
        return self.buffers.setdefault((y.shape, y.dtype), torch.empty_like(y)).copy_(y)


@PRODUCTS.caught_by("repeats-instances")
class EachInItsOwnWay(Multiplying):
    exactness = ROUGHLY
    made = count()

    def __init__(self) -> None:
        super().__init__()
        self.odd = next(self.made) % 2

    def product(self, x: Any, handle: Any, bias: Any, activations: str, rule: str) -> torch.Tensor:
        y = super().product(x, handle, bias, activations, rule)
        return one_ulp_up(y) if self.odd and y.shape[-1] == 24 else y


@PRODUCTS.caught_by("repeats-threads")
class SharesItsOperand(Multiplying):
    def product(self, x: Any, handle: Any, bias: Any, activations: str, rule: str) -> torch.Tensor:
        self.x = x
        time.sleep(0.0005)
        return super().product(self.x, handle, bias, activations, rule)
