"""A backend without a fault, whose every product goes through one method: what broken ones change a line of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from weakref import WeakSet

import torch
from torch.nn.functional import linear

from mx_cpu.reference import ReferenceBackend
from mx_plugin.errors import FormatError, PluginError
from mx_plugin.formats import MXTensor, fake_quantize
from mx_plugin.formats.spec import FP16
from mx_plugin.interfaces import BoundLinear, Capabilities, Counters, Exactness


class Weight:
    """A handle: the decoded weight, and the format that it was packed in."""

    def __init__(self, packed: MXTensor) -> None:
        self.values: torch.Tensor | None = packed.dequantize(torch.float32)
        self.fmt, self.shape = packed.format.name, packed.shape


class Multiplying(ReferenceBackend):
    """``exactness``: what it declares. ``loaded`` and ``unloaded`` handles, the former in order."""

    exactness = Exactness()

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[Weight] = []
        self.unloaded: WeakSet[Weight] = WeakSet()
        self.counted = Counters()
        self.closed = False

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, exactness=self.exactness)

    def load_weight(self, packed: MXTensor) -> Any:
        if self.closed:
            raise PluginError("closed")
        self._weights.check(packed)
        weight = Weight(packed)
        self.loaded.append(weight)
        self.counted.weights_loaded += 1
        self.counted.weight_bytes += packed.nbytes
        return weight

    def unload_weight(self, handle: Any) -> None:
        if handle in self.loaded:
            self.loaded.remove(handle)
            self.unloaded.add(handle)
            handle.values = None

    def product(
        self, x: torch.Tensor, handle: Any, bias: torch.Tensor | None, activations: str, rule: str
    ) -> torch.Tensor:
        if not isinstance(handle, Weight) or handle.values is None:
            raise PluginError("no weight of this backend")
        if x.shape[-1] != handle.shape[1]:
            raise FormatError("x does not fit the weight")
        self.counted.linear_calls += 1
        self.counted.macs += x.numel() * handle.shape[0]
        cast = x if activations == FP16 else fake_quantize(x, activations, scale_rule=rule)
        added = None if bias is None else bias.float()
        return linear(cast.float(), handle.values, added).to(x.dtype)

    def linear(
        self, x: Any, handle: Any, bias: Any = None, activations: str = "MXFP8", *, scale_rule: str = "floor"
    ) -> Any:
        return self.product(x, handle, bias, activations, scale_rule)

    def bind(self, handle: Any, activations: str, scale_rule: str) -> BoundLinear:
        return lambda x, bias: self.product(x, handle, bias, activations, scale_rule)

    def counters(self) -> Counters:
        return replace(self.counted)

    def close(self) -> None:
        for weight in list(self.loaded):
            self.unload_weight(weight)
        self.closed = True
