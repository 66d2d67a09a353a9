"""An adopted layer: its record, and the class that its module wears while adopted."""

from __future__ import annotations

import types
from functools import cache
from typing import Any

import torch
from torch import nn

from ..interfaces import LayerInfo
from .layer_types import LayerType
from .phases import TRACKER
from .routes import Route
from .sharding import in_place_of, is_sharded
from .tally import Tally

_STATE = "_mx_layer"


class AdoptedLayer:
    """One adopted module: who it is, its route in the phase in force, and what it has executed.

    ``name`` is relative to the role's model, without wrappers' prefixes; (role, name) is unique.
    """

    def __init__(self, name: str, role: str, module: nn.Module, layer_type: LayerType, is_lm_head: bool) -> None:
        self.name = name
        self.role = role
        self.module = module
        self.layer_type = layer_type
        self.is_lm_head = is_lm_head
        self.original = type(module)
        self.in_features, self.out_features = layer_type.features(module)
        self.released = False
        """Whether the module's full-precision weight was given up (see ``release``)."""
        self.sharded = False
        """Whether the weight lies in parts on several ranks (FSDP2), and is whole in forward only."""
        self.tallies: dict[str, Tally] = {}
        self.route: Route = self.unrouted

    @property
    def info(self) -> LayerInfo:
        """What a provider learns about this layer."""
        return LayerInfo(self.name, self.role, self.in_features, self.out_features, self.is_lm_head)

    def note_sharding(self) -> None:
        """Outside forwards only: frameworks shard models between adoption and the first step."""
        self.sharded = self.sharded or is_sharded(self.module)

    @property
    def weight(self) -> torch.Tensor:
        """The high-precision weight as (out, in)."""
        return self.layer_type.weight(self.module)

    def tally(self, phase: str) -> Tally:
        """This layer's counts in ``phase``, made on first use."""
        tally = self.tallies.get(phase)
        if tally is None:
            tally = self.tallies[phase] = Tally()
        return tally

    def unrouted(self, x: torch.Tensor) -> torch.Tensor:
        """Before the first phase entry: the layer's own forward."""
        y: torch.Tensor = self.original.forward(self.module, x)
        return y

    def wear(self) -> None:
        """Swap the module's class; a forward that is bound to the instance is rebound, or it would bypass us."""
        self.module.__dict__[_STATE] = self
        self.module.__class__ = adopted_class(self.original)  # type: ignore[arg-type]
        _rebind(self.module.__dict__, self.module, self.original.forward, _forward)

    def shed(self) -> None:
        """Give the module its class back, and FSDP2's if it was sharded meanwhile."""
        self.module.__class__ = in_place_of(adopted_class(self.original), self.module, self.original)  # type: ignore[arg-type]
        self.module.__dict__.pop(_STATE, None)
        _rebind(self.module.__dict__, self.module, _forward, self.original.forward)


_BOUND = ("forward", "_old_forward")
"""Where accelerate binds a forward to a module: behind a hook, and openly once the hook is removed."""


def _rebind(attributes: dict[str, Any], module: nn.Module, old: Any, new: Any) -> None:
    for name in _BOUND:
        if getattr(attributes.get(name), "__func__", None) is old:
            attributes[name] = types.MethodType(new, module)


def has_own_forward(module: nn.Module) -> bool:
    """True when the instance computes something else than its class: a forward was put in its place."""
    inner = module.__dict__.get("_old_forward", module.__dict__.get("forward"))
    return inner is not None and getattr(inner, "__func__", None) is not type(module).forward


def adopted(module: nn.Module) -> AdoptedLayer | None:
    """The module's record while it is adopted, else None."""
    layer: AdoptedLayer | None = module.__dict__.get(_STATE)
    return layer


def _forward(self: nn.Module, input: torch.Tensor) -> torch.Tensor:
    if torch.compiler.is_compiling():
        y: torch.Tensor = _uncompiled(self, input)
        return y
    grad = torch.is_grad_enabled()
    if grad is not TRACKER.grad:
        TRACKER.saw_forward(grad)
    layer: AdoptedLayer = self.__dict__[_STATE]
    return layer.route(input)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _uncompiled(self: nn.Module, input: torch.Tensor) -> torch.Tensor:
    """A compiled model breaks its graph here: routes change with the phase, which no guard sees."""
    y: torch.Tensor = _forward(self, input)
    return y


def _reduce_ex(self: nn.Module, protocol: Any) -> Any:
    """Pickle and copy as the original class: a copy is an ordinary, unadopted module."""
    layer: AdoptedLayer = self.__dict__[_STATE]
    state = {key: value for key, value in self.__dict__.items() if key != _STATE}
    _rebind(state, self, _forward, layer.original.forward)
    return _rebuild, (layer.original,), state


def _rebuild(cls: type[nn.Module]) -> nn.Module:
    return cls.__new__(cls)


@cache
def adopted_class(original: type[nn.Module]) -> type[nn.Module]:
    """The class that modules of type ``original`` wear: same name, isinstance, state_dict and pickle."""
    return type(
        original.__name__,
        (original,),
        {
            "forward": _forward,
            "__reduce_ex__": _reduce_ex,
            "__module__": original.__module__,
            "__doc__": original.__doc__,
            "__qualname__": original.__qualname__,
        },
    )
