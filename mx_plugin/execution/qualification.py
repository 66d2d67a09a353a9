"""Which layers may give up their full-precision weight, and why the others keep it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping

import torch
from torch import nn

from ..formats.spec import FP16
from ..formats.tensor import DTYPES
from ..precision.formats import LayerFormats
from . import phases
from .layer import AdoptedLayer

Formats = Callable[[AdoptedLayer, str], LayerFormats]


class Holders:
    """Who holds a parameter, by parameter and by memory, in the models of all roles."""

    def __init__(self, roots: Mapping[str, nn.Module]) -> None:
        self._roles: dict[int, set[str]] = defaultdict(set)
        self._places: dict[int, dict[tuple[int, str], str]] = defaultdict(dict)
        for role, root in roots.items():
            for path, module in root.named_modules():
                self._roles[id(module)].add(role)
                tensors = {**module._parameters, **module._buffers}
                for name, tensor in tensors.items():
                    if isinstance(tensor, torch.Tensor) and _memory(tensor):
                        self._places[_memory(tensor)][id(module), name] = f"{role}:{path}.{name}"

    def others(self, layer: AdoptedLayer, weight: torch.Tensor) -> str:
        """Who else holds the weight's memory, for a message; empty when nobody does."""
        if len(self._roles[id(layer.module)]) > 1:
            return "the roles " + " and ".join(sorted(self._roles[id(layer.module)]))
        places = self._places[_memory(weight)]
        return ", ".join(place for key, place in places.items() if key != (id(layer.module), "weight"))


def _memory(tensor: torch.Tensor) -> int:
    """The address of the storage; 0 where there is none (meta tensors, wrappers)."""
    return 0 if type(tensor) not in (torch.Tensor, nn.Parameter) else tensor.untyped_storage().data_ptr()


def phases_of(role: str, trained: bool) -> tuple[str, ...]:
    """The phases in which a role's layers may execute. A policy may be sampled from in any run."""
    if role == "policy":
        return (phases.ROLLOUT, phases.REWARD, phases.GRADIENT)
    return (phases.REWARD, phases.GRADIENT) if trained else (phases.REWARD,)


def why_kept(layer: AdoptedLayer, holders: Holders, frozen_roles: Collection[str]) -> str:
    """Why the parameter itself must keep its full-precision weight; empty when it need not."""
    weight = layer.module._parameters.get("weight")
    if type(weight) is not nn.Parameter or hasattr(weight, "ds_id"):
        return f"its weight is a {type(weight).__name__} that something else manages"
    if hasattr(layer.module, "_hf_hook"):
        return "an accelerate hook manages its weight"
    if weight._backward_hooks or weight._post_accumulate_grad_hooks or weight.grad is not None:
        return "its weight has a gradient or hooks"
    if weight.requires_grad and layer.role not in frozen_roles:
        return "its weight is trained"
    if weight.dtype not in DTYPES.values() or weight.is_meta:
        return f"its weight is {weight.dtype} on {weight.device}"
    others = holders.others(layer, weight)
    if others:
        return f"its weight is shared with {others}"
    if weight.untyped_storage().nbytes() != weight.nbytes:
        return "its weight is a part of larger memory"
    return ""


def one_format(layer: AdoptedLayer, in_phases: tuple[str, ...], formats: Formats) -> tuple[str, str] | str:
    """(weight format, scale rule) that serves all these phases, or why none does."""
    found: dict[tuple[str, str], str] = {}
    for phase in in_phases:
        asked = formats(layer, phase)
        reason = unserved(asked, phase == phases.GRADIENT)
        if reason:
            return f"{reason} in {phase}"
        found.setdefault((asked.weights, asked.forward.scale_rule), phase)
    if len(found) > 1:
        return "its weight's format differs: " + ", ".join(
            f"{name} ({rule}) in {phase}" for (name, rule), phase in found.items()
        )
    return next(iter(found))


def unserved(formats: LayerFormats, training: bool) -> str:
    """Why a packed copy, rounded to nearest, cannot stand in for the weight; empty when it can."""
    if formats.weights == FP16:
        return "its weight is not quantised"
    if not training:
        return ""
    if formats.forward.rounding != "nearest":
        return f"its weight is rounded by {formats.forward.rounding} rounding"
    if formats.forward.hadamard:
        return "its weight is cast under a Hadamard transform"
    if formats.dgrad.pair.weights not in (FP16, formats.weights):
        return f"dgrad casts it to {formats.dgrad.pair.weights}, the forward product to {formats.weights},"
    return ""
