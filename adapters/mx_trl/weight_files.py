"""Where a transformers model's weights can be read again: the local safetensors files that it was loaded from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel

from mx_plugin.execution.adoption import canonical_name
from mx_plugin.execution.layer import AdoptedLayer

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class SafetensorsWeight:
    """One tensor of a safetensors file: a :class:`mx_plugin.execution.weight_source.WeightSource`."""

    file: Path
    tensor: str

    def read(self) -> torch.Tensor:
        """The tensor, possibly a view of the mapped file."""
        with safe_open(self.file, framework="pt") as opened:
            tensor: torch.Tensor = opened.get_tensor(self.tensor)
        return tensor

    def describe(self) -> dict[str, str]:
        """Plain data for config.json."""
        return {"file": str(self.file), "tensor": self.tensor}


def weight_files(models: Mapping[str, nn.Module]) -> Callable[[AdoptedLayer], SafetensorsWeight | None]:
    """A function from an adopted layer to the file and tensor that its weight was probably loaded from, or None.

    Probably: a model may have been trained, converted or cast since. Whoever reloads compares the bits first.
    """
    places: dict[int, tuple[PreTrainedModel, str]] = {}
    for root in models.values():
        for pretrained in _outermost(root):
            for path, module in pretrained.named_modules():
                places.setdefault(id(module), (pretrained, canonical_name(path)))
    folders: dict[str, dict[str, Path]] = {}

    def find(layer: AdoptedLayer) -> SafetensorsWeight | None:
        if id(layer.module) not in places:
            return None
        pretrained, name = places[id(layer.module)]
        folder = _folder(pretrained.config)
        if folder is None:
            return None
        files = folders.setdefault(str(folder), _tensors(folder))
        for candidate in _spellings(f"{name}.weight", pretrained.base_model_prefix):
            if candidate in files:
                return SafetensorsWeight(files[candidate], candidate)
        return None

    return find


def _outermost(module: nn.Module) -> Iterator[PreTrainedModel]:
    """The transformers models in ``module``, without those inside of others."""
    if isinstance(module, PreTrainedModel):
        yield module
        return
    for child in module.children():
        yield from _outermost(child)


def _spellings(name: str, prefix: str) -> list[str]:
    """A checkpoint of the bare base model has no prefix; one of a model with a head has it."""
    bare = name.removeprefix(f"{prefix}.")
    return [name, bare, f"{prefix}.{bare}"]


def _folder(config: Any) -> Path | None:
    """The folder that the model was loaded from: the user's own, or a snapshot in the hub's local cache."""
    name = getattr(config, "_name_or_path", "") or ""
    if name and Path(name).is_dir():
        return Path(name).resolve()
    if name.count("/") > 1:
        return None
    from huggingface_hub import try_to_load_from_cache

    for file in (_SINGLE, _INDEX) if name else ():
        found = try_to_load_from_cache(name, file, revision=getattr(config, "_commit_hash", None))
        if isinstance(found, str):
            return Path(found).parent
    return None


def _tensors(folder: Path) -> dict[str, Path]:
    """Which file of the folder holds which tensor; empty when there are no safetensors."""
    try:
        if (folder / _INDEX).is_file():
            index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
            return {name: folder / file for name, file in index["weight_map"].items()}
        with safe_open(folder / _SINGLE, framework="pt") as opened:
            return dict.fromkeys(opened.keys(), folder / _SINGLE)
    except Exception:  # unreadable files are no source; the log says that none is known
        return {}
