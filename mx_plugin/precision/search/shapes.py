"""Sizes and dtypes of the layers that a matrix speaks about: from its own columns, or from a model's folder."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...errors import MatrixError, nearest
from ...formats.tensor import DTYPES
from ...interfaces import LayerInfo
from ..matrix import MatrixRow, SensitivityMatrix
from ..patterns import first_five, matches, names_lm_head, nearest_layer

LayerKey = tuple[str, str]
"""(layer or prefix, role)."""


@dataclass(frozen=True)
class Shape:
    """One linear layer: a weight of (out_features, in_features) in the model's ``dtype``, e.g. ``bfloat16``."""

    out_features: int
    in_features: int
    dtype: str

    @property
    def elements(self) -> int:
        return self.out_features * self.in_features

    @property
    def itemsize(self) -> int:
        """Bytes of one element of the model's dtype."""
        return DTYPES[self.dtype].itemsize


Shapes = Mapping[LayerKey, tuple[Shape, ...]]
"""The layers that each layer, or prefix, of a matrix stands for."""


def shapes_of(
    matrix: SensitivityMatrix,
    models: Mapping[str, Mapping[str, Shape]] | None = None,
    dtype: str | None = None,
) -> dict[LayerKey, tuple[Shape, ...]]:
    """The shapes of every layer of a matrix.

    ``models``: by role, a model's layers by name, as ``folder_shapes`` or ``layer_shapes`` give them; roles without
    one take the matrix's columns. ``dtype`` replaces the model's own.

    Raises:
        MatrixError: a layer that the model does not have or has in another size (names the first five); sizes or
            a dtype that nobody gave.
    """
    rows = {(row.layer, row.role): row for row in matrix.rows}
    found: dict[LayerKey, tuple[Shape, ...]] = {}
    for role in dict.fromkeys(role for _, role in rows):
        members = {layer: row for (layer, of), row in rows.items() if of == role}
        if models is not None and role in models:
            shapes = _of_model(members, models[role], role, matrix.source)
        else:
            shapes = _of_columns(members, role, dtype, matrix.source)
        found |= {(layer, role): shape for layer, shape in shapes.items()}
    if dtype is not None:
        _check_dtype(dtype, "dtype")
        found = {key: tuple(Shape(s.out_features, s.in_features, dtype) for s in some) for key, some in found.items()}
    return found


def check_layers(matrix: SensitivityMatrix, layers: Sequence[LayerInfo]) -> None:
    """Is the matrix about these layers, as a run has adopted them? Roles that the run lacks are passed over.

    Raises:
        MatrixError: a layer that the model does not have, or has in another size (names the first five).
    """
    for role in dict.fromkeys(layer.role for layer in layers):
        # No dtype is looked at here.
        known = {info.name: Shape(info.out_features, info.in_features, "") for info in layers if info.role == role}
        members = {row.layer: row for row in matrix.rows if row.role == role}
        _of_model(members, known, role, matrix.source)


# ---------------------------------------------------------------------------- against a model


def _of_model(
    rows: Mapping[str, MatrixRow], model: Mapping[str, Shape], role: str, source: str
) -> dict[str, tuple[Shape, ...]]:
    below = {layer: [name for name in model if matches(layer, name)] for layer in rows}
    missing = [layer for layer, names in below.items() if not names]
    if missing:
        raise MatrixError(
            f"{source} is for another model: of its {len(rows)} layers of role {role}, {len(missing)} are not in the "
            f"model: {first_five(missing)}. {nearest_layer(missing[0], model)}"
        )
    shapes = {layer: tuple(model[name] for name in names) for layer, names in below.items()}
    differing = [
        f"{layer} ({_size(row.out_features, row.in_features)} in the matrix, "
        f"{_size(shapes[layer][0].out_features, shapes[layer][0].in_features)} in the model)"
        for layer, row in rows.items()
        if layer in model and row.in_features is not None and row.out_features is not None
        if (row.out_features, row.in_features) != (model[layer].out_features, model[layer].in_features)
    ]
    if differing:
        raise MatrixError(
            f"{source} is for another model: {len(differing)} of its {len(rows)} layers of role {role} have other "
            f"sizes (out x in): {first_five(differing)}; give the matrix that was profiled on this model"
        )
    return shapes


def _size(out_features: int | None, in_features: int | None) -> str:
    return f"{out_features}x{in_features}"


def _of_columns(
    rows: Mapping[str, MatrixRow], role: str, dtype: str | None, source: str
) -> dict[str, tuple[Shape, ...]]:
    unsized = [layer for layer, row in rows.items() if row.in_features is None or row.out_features is None]
    if unsized:
        raise MatrixError(
            f"{source} gives no sizes for {len(unsized)} of its {len(rows)} layers of role {role}: "
            f"{first_five(unsized)}; give the model's folder (--model), or the columns in_features and out_features, "
            "which mx-plugin profile writes"
        )
    untyped = [layer for layer, row in rows.items() if not row.dtype]
    if untyped and dtype is None:
        raise MatrixError(
            f"{source} does not give the model's dtype, in which FP16 layers are counted: give --dtype, e.g. bfloat16, "
            "or a column dtype"
        )
    return {
        layer: (Shape(row.out_features or 0, row.in_features or 0, dtype or _check_dtype(row.dtype, source)),)
        for layer, row in rows.items()
    }


def _check_dtype(dtype: str, where: str) -> str:
    if dtype not in DTYPES:
        raise MatrixError(f"{where}: unknown dtype {dtype!r}: {nearest(dtype, DTYPES)}")
    return dtype


# ---------------------------------------------------------------------------- a model's layers


def layer_shapes(layers: Iterable[LayerInfo], dtype: torch.dtype) -> dict[str, Shape]:
    """The shapes of adopted layers, by name."""
    name = _check_dtype(str(dtype).removeprefix("torch."), "the model")
    return {layer.name: Shape(layer.out_features, layer.in_features, name) for layer in layers}


_STORED_TRANSPOSED = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
"""Model types whose linear layers are stored (in, out), which a file does not tell."""

_FILE_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def folder_shapes(folder: str | Path) -> dict[str, Shape]:
    """Every two-dimensional weight in a folder of safetensors files, by the name of its module.

    Headers alone are read. A tied lm_head, which no file holds, is added from ``config.json``.

    Raises:
        MatrixError: no such folder, no safetensors file in it, a file that is none, or a kind of model whose files
            do not tell (out, in) from (in, out).
    """
    path = Path(folder)
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    if not files:
        raise MatrixError(f"{path} holds no *.safetensors file to read layer sizes from; give the folder of a model")
    config = _config(path if path.is_dir() else path.parent)
    if config.get("model_type") in _STORED_TRANSPOSED:
        raise MatrixError(
            f"{path}: models of type {config['model_type']} store some weights (in, out), which files do not tell; "
            "use a matrix with the columns in_features and out_features, which mx-plugin profile writes"
        )
    shapes: dict[str, Shape] = {}
    for file in files:
        for name, entry in _header(file).items():
            module, _, kind = name.rpartition(".")
            if kind == "weight" and len(entry.get("shape", ())) == 2 and entry.get("dtype") in _FILE_DTYPES:
                out_features, in_features = entry["shape"]
                shapes[module] = Shape(out_features, in_features, _FILE_DTYPES[entry["dtype"]])
    if config.get("tie_word_embeddings") and shapes and not any(names_lm_head(name) for name in shapes):
        if isinstance(config.get("vocab_size"), int) and isinstance(config.get("hidden_size"), int):
            first = next(iter(shapes.values()))
            shapes["lm_head"] = Shape(config["vocab_size"], config["hidden_size"], first.dtype)
    return shapes


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _header(file: Path) -> dict[str, dict[str, Any]]:
    """The JSON at the front of a safetensors file, after its length as a little-endian 64-bit number."""
    try:
        with file.open("rb") as opened:
            length = struct.unpack("<Q", opened.read(8))[0]
            header = json.loads(opened.read(length)) if length <= file.stat().st_size else None
    except (OSError, struct.error, ValueError) as error:
        raise MatrixError(f"cannot read the header of {file}: {error}; is it a safetensors file?") from error
    if not isinstance(header, dict):
        raise MatrixError(f"{file} is not a safetensors file: it does not begin with a header")
    return {name: entry for name, entry in header.items() if isinstance(entry, dict) and name != "__metadata__"}
