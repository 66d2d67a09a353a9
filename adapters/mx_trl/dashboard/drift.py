"""How far training has moved each layer from where it began: from a sample of its weights."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

SAMPLE = 2048
"""Elements of a parameter that are kept, 4 bytes each; smaller parameters are kept whole."""

_BLOCK = re.compile(r"^(.*?\.\d+)\.")
_WRAPPERS = re.compile(r"(^|\.)(module|base_model\.model|_orig_mod)(?=\.)")


@dataclass
class _Kept:
    parameter: nn.Parameter
    indices: torch.Tensor | None
    start: torch.Tensor
    layer: str

    def now(self) -> torch.Tensor:
        flat = held_here(self.parameter.detach()).reshape(-1)
        return (flat if self.indices is None else flat[self.indices]).float()

    @property
    def share(self) -> float:
        return held_here(self.parameter.detach()).numel() / max(self.start.numel(), 1)


class Drift:
    """``||W - W0|| / ||W0||`` of each layer of each model that is trained, W0 being the weights at construction.

    A layer is a block of the model (``model.layers.3``) with all its trainable parameters, or a module outside of
    blocks. Norms are estimated from a fixed sample drawn by a generator of its own: of a parameter of n elements
    min(n, SAMPLE), so that the relative error of a norm is about 1 / sqrt(2 SAMPLE), 2%, for Gaussian weights. Kept are
    12 bytes an element of the sample: 24 KB a parameter, 6 MB for a model of 250.
    """

    def __init__(self, models: Mapping[str, nn.Module], seed: int = 0) -> None:
        self._kept: dict[str, list[_Kept]] = {}
        seen: set[int] = set()
        for role, model in models.items():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad and parameter.numel() and id(parameter) not in seen:
                    seen.add(id(parameter))
                    self._kept.setdefault(role, []).append(_keep(parameter, name, seed))

    @property
    def bytes(self) -> int:
        """What is kept."""
        every = [kept for of_role in self._kept.values() for kept in of_role]
        return sum(k.start.nbytes + (0 if k.indices is None else k.indices.nbytes) for k in every)

    def measure(self) -> dict[str, float]:
        """``{"policy/model.layers.0": 0.01, ..., "policy/all": 0.02}``; a layer that began at zero is left out."""
        found: dict[str, float] = {}
        for role, kept in self._kept.items():
            moved: dict[str, float] = {}
            began: dict[str, float] = {}
            for one in kept:
                change = (one.now() - one.start).double().square().sum().item() * one.share
                size = one.start.double().square().sum().item() * one.share
                for layer in (one.layer, "all"):
                    moved[layer] = moved.get(layer, 0.0) + change
                    began[layer] = began.get(layer, 0.0) + size
            for layer, size in began.items():
                if size > 0:
                    found[f"{role}/{layer}"] = (moved[layer] / size) ** 0.5
        return found


def layer_of(name: str) -> str:
    """``model.layers.3`` of ``model.layers.3.mlp.up_proj.weight``; outside of blocks the module's name."""
    name = _WRAPPERS.sub("", name).lstrip(".")
    block = _BLOCK.match(name)
    return block.group(1) if block else name.rpartition(".")[0] or name


def held_here(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a sharded tensor that this process holds; any other tensor itself."""
    to_local = getattr(tensor, "to_local", None)
    found: torch.Tensor = tensor if to_local is None else to_local()
    return found


def _keep(parameter: nn.Parameter, name: str, seed: int) -> _Kept:
    indices, size = None, held_here(parameter.detach()).numel()
    if size > SAMPLE:
        generator = torch.Generator().manual_seed(seed + zlib.crc32(name.encode()))
        indices = torch.randint(size, (SAMPLE,), generator=generator).to(parameter.device)
    kept = _Kept(parameter, indices, torch.empty(0), layer_of(name))
    kept.start = kept.now().clone()
    return kept
