"""``load_model``: a packed folder becomes a model again; a packed layer never has a full-precision weight."""

from __future__ import annotations

import logging
import weakref
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, GenerationConfig, PreTrainedModel
from transformers.utils import CONFIG_NAME

from mx_plugin.errors import MXError
from mx_plugin.execution.layer_types import LayerType
from mx_plugin.execution.packed_module import hold_packed
from mx_plugin.formats.storage import load_file
from mx_plugin.formats.tensor import MXTensor
from mx_plugin.interfaces import Backend
from mx_plugin.plugins import get_backend, layer_types

from ..errors import StageError
from .manifest import MANIFEST, TENSORS, Manifest
from .models import KINDS

logger = logging.getLogger(__name__)


def load_model(
    folder: str | Path,
    *,
    backend: str | None = None,
    backend_options: dict[str, Any] | None = None,
    device: str | torch.device = "cpu",
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """The model of a folder that ``mx-plugin export RUN DIR --packed`` wrote, ready to generate or score.

    A packed layer's full-precision weight never exists: the model is made without memory, and each such layer is given
    its packed tensor. The file is mapped, so that its pages are read when they are used and shared between processes.
    The model is frozen and in evaluation mode, runs in the formats it was packed in whatever the phase, and passes no
    gradient; ``layer.weight`` and ``state_dict()`` decode, so ``save_pretrained`` writes an ordinary folder of decoded
    values.

    Args:
        backend: executes the packed layers; None: ``cpu``, and ``reference`` on other devices.
        backend_options: of that backend, by name.
        trust_remote_code: as in transformers; for models with code of their own.

    Raises:
        StageError: no packed folder, or its tensors are not those of its model; names the first that differ.
        FormatError, PluginError: a format or backend that is not registered or does not fit.
    """
    path, place = Path(folder), torch.device(device)
    manifest = Manifest.read(path)
    if manifest.kind not in KINDS:
        raise StageError(f"{path / MANIFEST} names a model of kind {manifest.kind!r}; known: {', '.join(KINDS)}")
    model = _empty(path, manifest, trust_remote_code)
    executes = get_backend(backend or ("cpu" if place.type == "cpu" else "reference"), **(backend_options or {}))
    # Without modules that hold its handles nobody needs the backend.
    weakref.finalize(model, executes.close)
    try:
        tensors = load_file(path / TENSORS, device=str(place))
    except MXError:
        raise
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise StageError(f"cannot read {path / TENSORS}: {error}; export again") from error
    _fill(model, manifest, tensors, executes, path)
    model.to(place)  # buffers that no file holds
    _warn_of_decoded_copies(executes, tensors)
    return model.requires_grad_(False).eval()


def _empty(path: Path, manifest: Manifest, trust_remote_code: bool) -> PreTrainedModel:
    """The model with its buffers, and parameters without memory."""
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
        with init_empty_weights(include_buffers=False):
            model = KINDS[manifest.kind].auto.from_config(
                config, dtype=config.dtype or torch.float32, trust_remote_code=trust_remote_code
            )
        if (path / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        raise StageError(f"cannot make the model that {path / CONFIG_NAME} describes: {error}") from error
    return model


def _fill(
    model: PreTrainedModel,
    manifest: Manifest,
    tensors: dict[str, torch.Tensor | MXTensor],
    backend: Backend,
    path: Path,
) -> None:
    wanted = set(model.state_dict(keep_vars=True))
    there = {*tensors, *manifest.aliases}
    if wanted != there:
        missing, unknown = sorted(wanted - there), sorted(there - wanted)
        raise StageError(
            f"{path / TENSORS} is not of the model that {path / CONFIG_NAME} describes: it lacks {len(missing)} tensors"
            f" ({', '.join(missing[:3]) or 'none'}) and has {len(unknown)} others ({', '.join(unknown[:3]) or 'none'})"
            "; was it exported with another version of transformers?"
        )
    types = {layer_type.cls: layer_type for layer_type in layer_types()}
    for name, value in tensors.items():
        if isinstance(value, MXTensor):
            _pack(model, name, value, manifest, backend, types)
        else:
            _set(model, name, value, path)
    for alias, name in manifest.aliases.items():
        _alias(model, alias, name)


def _pack(
    model: nn.Module,
    name: str,
    packed: MXTensor,
    manifest: Manifest,
    backend: Backend,
    types: dict[type[nn.Module], LayerType],
) -> None:
    layer = name.removesuffix(".weight")
    module = model.get_submodule(layer)
    about = manifest.layers.get(layer)
    if about is None or type(module) not in types:
        raise StageError(
            f"{name} is packed, but {MANIFEST} does not say how {type(module).__name__} {layer} multiplies it"
        )
    hold_packed(
        module,
        types[type(module)],
        packed,
        backend,
        activations=about.activations,
        scale_rule=about.scale_rule,
        label=layer,
    )


def _set(model: nn.Module, name: str, value: torch.Tensor, path: Path) -> None:
    """Put a tensor in the place of one without memory."""
    module, leaf = _owner(model, name)
    old = module._parameters[leaf] if leaf in module._parameters else module._buffers[leaf]
    if old is None or old.shape != value.shape:
        shape = None if old is None else tuple(old.shape)
        raise StageError(f"{path / TENSORS}: {name} has shape {tuple(value.shape)}, the model's is {shape}")
    if leaf in module._parameters:
        module._parameters[leaf] = nn.Parameter(value, requires_grad=False)
    else:
        module._buffers[leaf] = value


def _alias(model: nn.Module, alias: str, name: str) -> None:
    module, leaf = _owner(model, alias)
    source, there = _owner(model, name)
    if there in source._parameters:
        module._parameters[leaf] = source._parameters[there]
    else:
        module._buffers[leaf] = source._buffers[there]


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf


def _warn_of_decoded_copies(backend: Backend, tensors: dict[str, torch.Tensor | MXTensor]) -> None:
    """The reference decodes every weight: correct, but that is what loading packed was to avoid."""
    packed = next((x for x in tensors.values() if isinstance(x, MXTensor)), None)
    if packed is not None and backend.weight_bytes(packed, packed.dtype) > packed.nbytes:
        logger.warning(
            "backend %s keeps a decoded copy of every packed weight: the model takes as much memory as one in full "
            "precision", backend.name,
        )  # fmt: skip
