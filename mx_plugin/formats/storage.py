"""Safetensors files that mix MXTensors and ordinary tensors.

An MXTensor ``name`` is stored as two uint8 tensors, ``name.mx_elements`` and ``name.mx_scales``; what they
mean stands as JSON in the file's metadata, under ``mx_plugin``, with a version.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch

from ..errors import FormatError
from .spec import Format
from .tensor import MXTensor, dtype_name, dtype_of

VERSION = 1
_KEY = "mx_plugin"
_ELEMENTS, _SCALES = ".mx_elements", ".mx_scales"


def _safetensors() -> Any:
    try:
        import safetensors.torch as library
    except ImportError as error:
        raise FormatError("safetensors is not installed: pip install 'mx-plugin[safetensors]'") from error
    return library


def _describe(x: MXTensor) -> dict[str, Any]:
    return {
        "format": x.format.name,
        "element": x.format.element.name,
        "block_size": x.format.block_size,
        "shape": list(x.shape),
        "dim": x.dim,
        "dtype": dtype_name(x.dtype),
    }


def save_file(
    tensors: Mapping[str, torch.Tensor | MXTensor],
    path: str | PathLike[str],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors, packed ones as packed, into one safetensors file.

    Raises:
        FormatError: safetensors is not installed, or a name clashes with the parts of an MXTensor or
            with the metadata entry ``mx_plugin``.
    """
    library = _safetensors()
    flat: dict[str, torch.Tensor] = {}
    described: dict[str, Any] = {}
    for name, value in tensors.items():
        parts = {name: value}
        if isinstance(value, MXTensor):
            described[name] = _describe(value)
            parts = {name + _ELEMENTS: value.elements, name + _SCALES: value.scales}
        for part, tensor in parts.items():
            if part in flat:
                raise FormatError(f"two tensors would both be stored as {part!r}; rename one")
            flat[part] = tensor.contiguous()  # type: ignore[union-attr]
    if metadata and _KEY in metadata:
        raise FormatError(f"metadata entry {_KEY!r} is taken by the description of the packed tensors; rename yours")
    header = {_KEY: json.dumps({"version": VERSION, "tensors": described}), **(metadata or {})}
    library.save_file(flat, path, metadata=header)


def load_file(path: str | PathLike[str], device: str = "cpu") -> dict[str, torch.Tensor | MXTensor]:
    """Read a file written by :func:`save_file`, or any safetensors file.

    Raises:
        FormatError: safetensors is not installed, the file was written by a newer version, or it
            names a format that is not registered or is registered differently.
    """
    library = _safetensors()
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        header = json.loads((file.metadata() or {}).get(_KEY, '{"version": 1, "tensors": {}}'))
    if header["version"] > VERSION:
        raise FormatError(f"{path}: packed tensors of version {header['version']}, this is {VERSION}: update mx-plugin")
    flat: dict[str, Any] = library.load_file(path, device=device)
    for name, about in header["tensors"].items():
        elements, scales = flat.pop(name + _ELEMENTS), flat.pop(name + _SCALES)
        packed = MXTensor(elements, scales, about["format"], about["shape"], about["dim"], dtype_of(about["dtype"]))
        _check_same(packed.format, about, name, path)
        flat[name] = packed
    return flat


def _check_same(fmt: Format, about: Mapping[str, Any], name: str, path: str | PathLike[str]) -> None:
    here = (fmt.element.name, fmt.block_size)
    there = (about["element"], about["block_size"])
    if here != there:
        raise FormatError(
            f"{path}: {name} was stored as {fmt} = {there[0]} in blocks of {there[1]}, "
            f"but {fmt} is registered as {here[0]} in blocks of {here[1]}"
        )
