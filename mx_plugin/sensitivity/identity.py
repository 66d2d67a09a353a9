"""What a profile is about: model, data and settings, so that a file of another one is not taken for it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from ..execution.layer import AdoptedLayer
from ..execution.work import dtype_name
from ..precision.patterns import first_five


def describe_models(models: Mapping[str, nn.Module], layers: Iterable[AdoptedLayer]) -> dict[str, Any]:
    """By role: each adopted layer as ``in x out dtype digest``, and one digest of all other parameters and buffers."""
    described: dict[str, Any] = {role: {"layers": {}} for role in models}
    adopted: set[int] = set()
    for layer in layers:
        weight = layer.layer_type.parameter(layer.module)
        adopted.add(id(weight))
        described[layer.role]["layers"][layer.name] = (
            f"{layer.in_features}x{layer.out_features} {dtype_name(weight.dtype)} {_digest([weight])}"
        )
    for role, model in models.items():
        others = [t for _, t in [*model.named_parameters(), *model.named_buffers()] if id(t) not in adopted]
        described[role]["others"] = _digest(others)
    return described


def _digest(tensors: Iterable[torch.Tensor]) -> str:
    """BLAKE2b of shapes, dtypes and bits, first 16 hex digits."""
    found = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        found.update(f"{dtype_name(tensor.dtype)}{tuple(tensor.shape)}".encode())
        bits: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        found.update(bits)
    return found.hexdigest()


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """In words, what differs between two identities; empty when nothing does. Models come first."""
    if theirs == ours:
        return ""
    old, new = theirs.get("models", {}), ours.get("models", {})
    if list(old) != list(new):
        return f"its models are {', '.join(old) or 'none'}, here {', '.join(new)}"
    for role in new:
        found = _layers_that_differ(old[role].get("layers", {}), new[role]["layers"])
        if found:
            return f"{role}: {found}"
        if old[role].get("others") != new[role]["others"]:
            return f"{role}: its layers are the same, but embeddings, norms or other parameters are not"
    for name in [*ours, *(key for key in theirs if key not in ours)]:
        if theirs.get(name) != ours.get(name):
            return f"{name} was {theirs.get(name)!r}, now {ours.get(name)!r}"
    return "its layers stand in another order"


def _layers_that_differ(theirs: Mapping[str, str], ours: Mapping[str, str]) -> str:
    missing = [name for name in theirs if name not in ours]
    if missing:
        return f"it has layers that this model has not: {first_five(missing)}"
    more = [name for name in ours if name not in theirs]
    if more:
        return f"this model has layers that it has not: {first_five(more)}"
    shape = [name for name in ours if ours[name].split()[:2] != theirs[name].split()[:2]]
    if shape:
        return "shape or dtype differ in " + first_five(
            f"{name} ({' '.join(theirs[name].split()[:2])}, here {' '.join(ours[name].split()[:2])})" for name in shape
        )
    weights = [name for name in ours if ours[name] != theirs[name]]
    return f"the weights of {first_five(weights)} differ" if weights else ""
