"""A linear module that was loaded packed: it multiplies its packed weight in one pair of formats, in every phase.

No engine adopts it, and it follows no phase. Inference only: it has no full-precision weight to train, and no
gradient passes through its product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from ..errors import ReleasedWeightError
from ..formats.tensor import MXTensor
from ..interfaces import Backend, BoundLinear, Handle
from .layer_types import LayerType
from .released_module import KEEPS_ITS_WEIGHT
from .released_weight import PackedSource, ReleasedWeight
from .routes import autocast_dtype

_STATE = "_mx_packed"
_WHY = "it was loaded packed, without a full-precision weight"
_REMEDY = "Load a folder with full-precision weights (`mx-plugin export` without --packed) to train or change it"


@dataclass(frozen=True)
class PackedLinear:
    """What a packed module multiplies: ``handle`` is the backend's; ``bound`` its product with formats chosen."""

    packed: MXTensor
    backend: Backend
    handle: Handle
    bound: BoundLinear
    label: str
    activations: str
    scale_rule: str


def hold_packed(
    module: nn.Module,
    layer_type: LayerType,
    packed: MXTensor,
    backend: Backend,
    *,
    activations: str,
    scale_rule: str,
    label: str,
) -> None:
    """Give ``module`` the packed weight in the place of its own, whatever that was (a meta tensor, usually).

    ``module.weight`` becomes a :class:`ReleasedWeight`: its shape, dtype and device, decoded when it is read.

    Args:
        packed: (out, in), blocked along ``in``.
        activations: the format of x, ``FP16`` for none.
        scale_rule: of the activations' cast.
        label: the layer's name, for messages.

    Raises:
        FormatError, PluginError: the backend does not take this weight or these formats.
        ReleasedWeightError: the packed weight has another shape than the module.
    """
    if (packed.shape[1], packed.shape[0]) != layer_type.features(module):
        inner, outer = layer_type.features(module)
        raise ReleasedWeightError(
            f"the packed weight of {label} has shape {tuple(packed.shape)}, the model's layer is ({outer}, {inner})"
        )
    handle = backend.load_weight(packed)
    bound = backend.bind(handle, activations, scale_rule)
    weight = ReleasedWeight(PackedSource(packed, backend, label, _WHY, _REMEDY), layer_type.transposed)
    weight.__dict__["_is_param"] = True
    module._parameters["weight"] = weight  # type: ignore[assignment]
    module.__dict__[_STATE] = PackedLinear(packed, backend, handle, bound, label, activations, scale_rule)
    module.__class__ = packed_class(type(module))  # type: ignore[arg-type]


def held_packed(module: nn.Module) -> PackedLinear | None:
    """What a packed module multiplies; None of any other module."""
    held: PackedLinear | None = module.__dict__.get(_STATE)
    return held


def _forward(self: nn.Module, input: torch.Tensor) -> torch.Tensor:
    if torch.compiler.is_compiling():
        y: torch.Tensor = _uncompiled(self, input)
        return y
    held: PackedLinear = self.__dict__[_STATE]
    if input.requires_grad and torch.is_grad_enabled():
        raise ReleasedWeightError(
            f"{held.label} was loaded packed and passes no gradient on, but its input requires one. {_REMEDY}; to "
            "score only, use torch.no_grad()"
        )
    y = held.bound(input, self._parameters.get("bias"))
    dtype = autocast_dtype(input)
    return y if dtype is None else y.to(dtype)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _uncompiled(self: nn.Module, input: torch.Tensor) -> torch.Tensor:
    """A compiled model breaks its graph here: the backend's product is no operation that torch knows."""
    y: torch.Tensor = _forward(self, input)
    return y


def _deepcopy(self: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A copy of its own that shares the packed weight, which nobody can write."""
    copied: nn.Module = self.__class__.__new__(self.__class__)
    memo[id(self)] = copied
    copied.__dict__.update(self.__dict__)
    for name, value in self.__dict__.items():
        if name != _STATE and isinstance(value, dict | set):
            copied.__dict__[name] = value.copy()
    copied._parameters.update(
        {
            name: torch.nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)
            for name, parameter in self._parameters.items()
            if parameter is not None and name != "weight"
        }
    )
    return copied


def _reduce_ex(self: nn.Module, protocol: Any) -> Any:
    held: PackedLinear = self.__dict__[_STATE]
    raise ReleasedWeightError(
        f"{held.label} was loaded packed and cannot be pickled with its backend. Copy the folder it was loaded from"
    )


@cache
def packed_class(original: type[nn.Module]) -> type[nn.Module]:
    """The class worn by modules of type ``original`` that hold a packed weight: same name and isinstance."""
    members: dict[str, Callable[..., Any] | str | None] = {
        **KEEPS_ITS_WEIGHT,
        "forward": _forward,
        "__deepcopy__": _deepcopy,
        "__reduce_ex__": _reduce_ex,
        "__module__": original.__module__,
        "__doc__": original.__doc__,
        "__qualname__": original.__qualname__,
    }
    return type(original.__name__, (original,), members)
