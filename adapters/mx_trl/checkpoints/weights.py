"""A model's weights from the folder of a checkpoint, into the model that stands already."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from .errors import CheckpointError

FILE, INDEX = "model.safetensors", "model.safetensors.index.json"


def load_weights(model: nn.Module, folder: Path) -> None:
    """Copy the weights that ``save_pretrained`` wrote to ``folder`` into ``model``, bit for bit.

    Raises:
        CheckpointError: no weights there, or not those of this model. Tied weights may be missing, nothing else.
    """
    tensors = {}
    for file in _files(folder):
        tensors.update(load_file(file))
    own = model.state_dict()
    wrong = [name for name, tensor in tensors.items() if name not in own or own[name].shape != tensor.shape]
    missing = sorted(set(own) - set(tensors))
    present = {own[name].data_ptr() for name in tensors if name in own}
    untied = [name for name in missing if own[name].data_ptr() not in present]
    if wrong or untied:
        what = f"{wrong[0]} does not fit" if wrong else f"{untied[0]} is missing"
        raise CheckpointError(
            f"{folder} does not hold the weights of this {type(model).__name__}: {what} ({len(wrong)} do not fit, "
            f"{len(untied)} are missing); resume with the model and options that the checkpoint was written with"
        )
    model.load_state_dict(tensors, strict=False)


def _files(folder: Path) -> list[Path]:
    if (folder / INDEX).is_file():
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        return [folder / name for name in sorted(set(index["weight_map"].values()))]
    if (folder / FILE).is_file():
        return [folder / FILE]
    raise CheckpointError(f"{folder} holds no {FILE}: it is no checkpoint, or not a whole one; resume from another")
