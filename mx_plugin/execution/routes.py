"""What a layer's call does in the phase in force: one small callable, chosen at the phase entry."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from ..interfaces import BoundLinear
from .layer_types import LayerType
from .phases import TRACKER
from .products import LayerProducts, MXLinearFunction
from .tally import Tally

Route = Callable[[torch.Tensor], torch.Tensor]


def autocast_dtype(x: torch.Tensor) -> torch.dtype | None:
    """The dtype that autocast would multiply in on x's device, or None when it is off."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


class PlainRoute:
    """FP16: the layer's own forward, bit for bit; only counted."""

    __slots__ = ("forward", "in_features", "module", "tally")

    def __init__(self, module: nn.Module, original: type[nn.Module], in_features: int, tally: Tally) -> None:
        self.module = module
        self.forward = original.forward
        self.in_features = in_features
        self.tally = tally

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.forward(self.module, x)
        tally = self.tally
        tally.calls += 1
        tally.rows += x.numel() // self.in_features
        tally.dtype = y.dtype
        return y


class PlainGradientRoute(PlainRoute):
    """FP16 with gradients on: also counts the two backward products when backward reaches them."""

    __slots__ = ("weight",)

    def __init__(
        self, module: nn.Module, original: type[nn.Module], in_features: int, tally: Tally, layer_type: LayerType
    ) -> None:
        super().__init__(module, original, in_features, tally)
        self.weight = layer_type.parameter

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y = super().__call__(x)
        if y.requires_grad:
            needs_dx, needs_dw = x.requires_grad, self.weight(self.module).requires_grad
            tally, rows = self.tally, x.numel() // self.in_features

            def count(_: torch.Tensor) -> None:
                TRACKER.saw_backward()
                if needs_dx:
                    tally.dgrad_rows += rows
                    tally.dgrad_calls += 1
                if needs_dw:
                    tally.wgrad_rows += rows

            # A view may be returned (Conv1D); hooks on the output fire once, in the graph that backward
            # really walks, so a checkpoint's recomputed forward does not count its products twice.
            y.register_hook(count)  # type: ignore[no-untyped-call]
        return y


class PackedRoute:
    """Rollout and reward: packed weights, straight to the backend."""

    __slots__ = ("bound", "in_features", "parameters", "tally")

    def __init__(self, module: nn.Module, bound: BoundLinear, in_features: int, tally: Tally) -> None:
        self.parameters = module._parameters
        self.bound = bound
        self.in_features = in_features
        self.tally = tally

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bound(x, self.parameters.get("bias"))
        dtype = autocast_dtype(x)
        if dtype is not None:
            y = y.to(dtype)
        tally = self.tally
        tally.calls += 1
        tally.rows += x.numel() // self.in_features
        tally.dtype = y.dtype
        return y


class GradientRoute:
    """Gradient: fake-quantised operands through :class:`MXLinearFunction`."""

    __slots__ = ("in_features", "parameters", "products", "tally", "weight")

    def __init__(
        self, module: nn.Module, layer_type: LayerType, products: LayerProducts, in_features: int, tally: Tally
    ) -> None:
        self.parameters = module._parameters
        self.weight = partial(layer_type.weight, module)
        self.products = products
        self.in_features = in_features
        self.tally = tally

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        tally = self.tally
        tally.calls += 1
        tally.rows += x.numel() // self.in_features
        y: torch.Tensor = MXLinearFunction.apply(  # type: ignore[no-untyped-call]
            x, self.weight(), self.parameters.get("bias"), self.products, tally, autocast_dtype(x)
        )
        return y
