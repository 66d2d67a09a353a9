"""The class that a module wears while its weight is released: an adopted layer that refuses to be given another."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn

from ..errors import ReleasedWeightError
from .layer import adopted_class
from .released_weight import REMEDY, ReleasedWeight


def _register_parameter(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
    """``module.weight = ...``, ``load_state_dict(assign=True)`` and parametrisations all come through here."""
    if name == "weight":
        released_weight(self)._source.refuse("assigning the attribute weight")
    nn.Module.register_parameter(self, name, param)


def _delattr(self: nn.Module, name: str) -> None:
    if name == "weight":
        released_weight(self)._source.refuse("deleting the attribute weight")
    nn.Module.__delattr__(self, name)


def _apply(self: nn.Module, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> nn.Module:
    """``to``, ``half``, ``cuda`` ...: fine as long as the packed weight may stay what and where it is."""
    weight = released_weight(self)
    probe = torch.empty((0, 0), dtype=weight.dtype, device=weight.device)
    applied = fn(probe)
    if (applied.dtype, applied.device) != (probe.dtype, probe.device):
        raise ReleasedWeightError(
            f"{weight._source.label} cannot go from {probe.dtype} on {probe.device} to {applied.dtype} on "
            f"{applied.device}: {weight._source.why}. {weight._source.remedy}"
        )
    # None is passed over, and the order of the parameters, which names them to optimisers, stays.
    self._parameters["weight"] = None
    try:
        nn.Module._apply(self, fn, recurse)  # type: ignore[no-untyped-call]
    finally:
        self._parameters["weight"] = weight  # type: ignore[assignment]
    return self


def _save_to_state_dict(self: nn.Module, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
    """A state dict holds ordinary tensors, whoever writes it to a file."""
    nn.Module._save_to_state_dict(self, destination, prefix, keep_vars)
    if not keep_vars:
        destination[f"{prefix}weight"] = released_weight(self).decode()


def released_weight(module: nn.Module) -> ReleasedWeight:
    """The stand-in for the module's weight.

    Raises:
        ReleasedWeightError: something put another parameter in its place.
    """
    weight = module._parameters.get("weight")
    if not isinstance(weight, ReleasedWeight):
        raise ReleasedWeightError(
            f"the released weight of a {type(module).__name__} was replaced behind its back by a "
            f"{type(weight).__name__}, e.g. through module._parameters. {REMEDY}"
        )
    return weight


KEEPS_ITS_WEIGHT: dict[str, Callable[..., Any]] = {
    "register_parameter": _register_parameter,
    "__delattr__": _delattr,
    "_apply": _apply,
    "_save_to_state_dict": _save_to_state_dict,
}
"""Members of a class whose instances refuse to be given another weight than the packed one they hold."""


@cache
def released_class(original: type[nn.Module]) -> type[nn.Module]:
    """The class worn by adopted modules of type ``original`` whose weight is released."""
    worn = adopted_class(original)  # type: ignore[arg-type]
    members: dict[str, Any] = dict(KEEPS_ITS_WEIGHT)
    for name in ("__module__", "__doc__", "__qualname__"):
        members[name] = getattr(original, name)
    return type(original.__name__, (worn,), members)
