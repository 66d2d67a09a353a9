"""Packs a model's layers in the formats that they ran in, and writes everything that ``load_model`` needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from mx_plugin.execution.adoption import select
from mx_plugin.execution.layer import AdoptedLayer
from mx_plugin.formats.philox import StochasticKey
from mx_plugin.formats.spec import FP16
from mx_plugin.formats.storage import save_file
from mx_plugin.formats.tensor import MXTensor
from mx_plugin.interfaces import Backend, Provider
from mx_plugin.plugins import get_backend, layer_types

from ..errors import StageError
from .manifest import TENSORS, Manifest, PackedLayer
from .models import ModelKind


@dataclass(frozen=True)
class PackedModel:
    """Every tensor of a model by name, packed ones packed; ``layers`` by module path; ``aliases`` of tied tensors."""

    tensors: dict[str, torch.Tensor | MXTensor]
    layers: dict[str, PackedLayer]
    aliases: dict[str, str]

    @property
    def packed_bytes(self) -> dict[str, int]:
        """Of packed weights, by format."""
        return self._by_format(lambda x: x.nbytes)

    @property
    def bfloat16_bytes(self) -> dict[str, int]:
        """What they would take in bfloat16."""
        return self._by_format(lambda x: 2 * x.numel())

    def _by_format(self, size: Callable[[MXTensor], int]) -> dict[str, int]:
        found: Counter[str] = Counter()
        for x in self.tensors.values():
            if isinstance(x, MXTensor):
                found[x.format.name] += size(x)
        return dict(sorted(found.items()))

    @property
    def other_bytes(self) -> int:
        return sum(x.nbytes for x in self.tensors.values() if not isinstance(x, MXTensor))


def pack_model(model: PreTrainedModel, kind: ModelKind, provider: Provider) -> PackedModel:
    """Pack what ``provider`` quantises in the kind's role and phase, bit for bit as the engine does in training.

    Raises:
        PolicyError: the policy's rules do not fit the model's layers.
        StageError: nothing is quantised there, or a layer quantises activations only.
    """
    layers, _ = select({kind.role: model}, layer_types())
    provider.start([layer.info for layer in layers])
    paths = {id(module): path for path, module in model.named_modules()}
    backend = get_backend("cpu")
    packed: dict[str, MXTensor] = {}
    formats: dict[str, PackedLayer] = {}
    try:
        for layer in layers:
            chosen = _formats(layer, kind, provider)
            if chosen is not None:
                path = paths[id(layer.module)]
                packed[f"{path}.weight"] = _packed(layer, chosen, backend)
                formats[path] = chosen
    finally:
        backend.close()
    if not packed:
        raise StageError(
            f"the policy {provider.describe().get('name', '?')} leaves every {kind.role} layer unquantised in "
            f"{kind.phase}, so there is nothing to pack: export without --packed, or choose another --policy"
        )
    tensors, aliases = _others(model, packed)
    return PackedModel({**tensors, **packed}, formats, aliases)


def _formats(layer: AdoptedLayer, kind: ModelKind, provider: Provider) -> PackedLayer | None:
    """How the layer multiplies, None for unquantised; the engine's rules for output heads included."""
    if layer.is_lm_head and kind.role != "policy":
        return None
    forward = provider.get_precision(layer.name, kind.phase, kind.role).forward
    if not forward.pair.quantised:
        return None
    if forward.pair.weights == FP16:
        raise StageError(
            f"{layer.name} runs as {forward.pair} in {kind.phase}: activations alone are quantised, and load_model "
            "executes packed weights only. Choose another --policy, or export without --packed"
        )
    return PackedLayer(forward.pair.weights, forward.pair.activations, forward.scale_rule)


def _packed(layer: AdoptedLayer, chosen: PackedLayer, backend: Backend) -> MXTensor:
    weight = layer.weight.detach()
    key = StochasticKey.of(0, 0, layer.name, "weight")
    return backend.quantize(weight, chosen.weights, -1, scale_rule=chosen.scale_rule, key=key)


def _others(model: nn.Module, packed: Mapping[str, MXTensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """What is stored as it is, once each, and the other names of what is tied."""
    tensors: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[int, torch.Size, tuple[int, ...]], str] = {}
    for name, tensor in model.state_dict().items():
        if name in packed:
            continue
        key = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() and key in first:
            aliases[name] = first[key]
            continue
        first[key] = name
        tensors[name] = tensor.detach().clone(memory_format=torch.contiguous_format)
    return tensors, aliases


def write_packed(packed: PackedModel, manifest: Manifest, folder: Path) -> None:
    """Tensors and manifest into ``folder``."""
    save_file(packed.tensors, folder / TENSORS)
    manifest.write(folder)
