"""Nested state - an optimiser's, a generator's - as one JSON file and one of safetensors: nothing is pickled.

``state.json`` holds the structure, ``state.safetensors`` the tensors that it names. Floats survive JSON exactly, as
Python writes the shortest text that reads back as the same number.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .errors import CheckpointError

_PLAIN = (bool, int, float, str, type(None))


def save_tree(folder: Path, name: str, tree: Any) -> None:
    """Write ``<name>.safetensors``, then ``<name>.json``: where the latter is, both are whole.

    Args:
        tree: dicts, lists, tuples, deques, numbers, text, None, tensors and numpy arrays, nested at will.

    Raises:
        CheckpointError: something else is in it, or it cannot be written.
    """
    tensors: dict[str, torch.Tensor] = {}
    structure = _encode(tree, name, tensors)
    try:
        _replace(folder / f"{name}.safetensors", lambda file: save_file(tensors, file))
        _replace(folder / f"{name}.json", lambda file: file.write_text(json.dumps(structure) + "\n", encoding="utf-8"))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {folder / name}: {error}; free space or permissions there") from error


def load_tree(folder: Path, name: str) -> Any:
    """What :func:`save_tree` was given; tensors on the CPU.

    Raises:
        CheckpointError: the files are missing or damaged.
    """
    try:
        structure = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        return _decode(structure, load_file(folder / f"{name}.safetensors"))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot read {folder / name}.json and .safetensors: {error}; not a whole checkpoint: resume from another"
        ) from error


def save_ranks(accelerator: Any, folder: Path, name: str, tree: Any) -> None:
    """:func:`save_tree` of every rank, the main one's last and without a number: where that is, all are."""
    if not accelerator.is_main_process:
        save_tree(folder, f"{name}_{accelerator.process_index}", tree)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        save_tree(folder, name, tree)


def load_rank(accelerator: Any, folder: Path, name: str) -> Any:
    """What this rank gave :func:`save_ranks`."""
    return load_tree(folder, name if accelerator.is_main_process else f"{name}_{accelerator.process_index}")


def _replace(file: Path, write: Any) -> None:
    part = file.with_name(file.name + ".part")
    write(part)
    os.replace(part, file)


def _encode(value: Any, path: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, torch.Tensor | np.ndarray):
        kind = "tensor" if isinstance(value, torch.Tensor) else "array"
        # A copy of its own: safetensors refuses tensors that share memory.
        tensors[path] = torch.as_tensor(value).detach().cpu().clone(memory_format=torch.contiguous_format)
        return {kind: path}
    if isinstance(value, np.generic):
        return _encode(value.item(), path, tensors)
    if isinstance(value, Mapping):
        return {"dict": [[key, _encode(item, f"{path}.{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple | deque):
        return {type(value).__name__: [_encode(item, f"{path}.{n}", tensors) for n, item in enumerate(value)]}
    raise CheckpointError(f"{path} is a {type(value).__name__}, which a checkpoint of JSON and tensors cannot hold")


def _decode(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "array":
        return tensors[content].numpy()
    if kind == "dict":
        return {key: _decode(item, tensors) for key, item in content}
    return {"list": list, "tuple": tuple, "deque": deque}[kind](_decode(item, tensors) for item in content)
