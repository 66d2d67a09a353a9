"""Safetensors files of packed and ordinary tensors."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from mx_plugin.errors import FormatError
from mx_plugin.formats import MXTensor, format_names, quantize
from mx_plugin.formats.storage import load_file, save_file


def test_packed_and_ordinary_tensors_come_back(tmp_path: Path) -> None:
    tensors: dict = {name: quantize(torch.randn(5, 45).bfloat16(), name, dim) for dim, name in enumerate_dims()}
    tensors["plain"] = torch.randn(3).half()
    tensors["empty"] = quantize(torch.empty(0, 4), "MXFP4")
    save_file(tensors, tmp_path / "w.safetensors", {"note": "mine"})
    loaded = load_file(tmp_path / "w.safetensors")
    assert loaded.keys() == tensors.keys()
    assert torch.equal(loaded.pop("plain"), tensors.pop("plain"))
    for name, packed in loaded.items():
        assert isinstance(packed, MXTensor) and packed.equal(tensors[name])
    with safetensors.safe_open(tmp_path / "w.safetensors", framework="pt") as file:
        assert file.metadata()["note"] == "mine"


def enumerate_dims() -> list[tuple[int, str]]:
    return [(i % 2, name) for i, name in enumerate(format_names())]


def test_the_file_is_as_small_as_the_packed_tensor(tmp_path: Path) -> None:
    packed = quantize(torch.randn(512, 512), "MXFP4")
    save_file({"w": packed}, tmp_path / "w.safetensors")
    assert packed.nbytes < (tmp_path / "w.safetensors").stat().st_size < packed.nbytes + 1024


def test_any_safetensors_file_can_be_read(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    assert torch.equal(load_file(tmp_path / "a.safetensors")["a"], torch.ones(2))


def test_clashing_names_are_refused(tmp_path: Path) -> None:
    packed = quantize(torch.ones(32), "MXFP4")
    with pytest.raises(FormatError, match=r"w\.mx_scales"):
        save_file({"w": packed, "w.mx_scales": torch.ones(1)}, tmp_path / "w.safetensors")
    with pytest.raises(FormatError, match="mx_plugin"):
        save_file({"w": packed}, tmp_path / "w.safetensors", {"mx_plugin": "x"})


def write(path: Path, **changes: object) -> None:
    packed = quantize(torch.ones(1, 32), "MXFP8")
    about = {"format": "MXFP8", "element": "E4M3", "block_size": 32, "shape": [1, 32], "dim": 1, "dtype": "float32"}
    version = changes.pop("version", 1)
    header = {"mx_plugin": json.dumps({"version": version, "tensors": {"w": {**about, **changes}}})}
    parts = {"w.mx_elements": packed.elements, "w.mx_scales": packed.scales}
    safetensors.torch.save_file(parts, path, metadata=header)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "version 2.*update mx-plugin"),
        ({"format": "MXFP9"}, "unknown MX format 'MXFP9'"),
        ({"element": "E5M2"}, "w was stored as MXFP8 = E5M2"),
        ({"block_size": 16}, "blocks of 16"),
        ({"dtype": "float8"}, "unknown source dtype 'float8'"),
    ],
)
def test_a_file_that_cannot_be_understood_says_why(tmp_path: Path, changes: dict, message: str) -> None:
    write(tmp_path / "w.safetensors")
    assert "w" in load_file(tmp_path / "w.safetensors")
    write(tmp_path / "w.safetensors", **changes)
    with pytest.raises(FormatError, match=message):
        load_file(tmp_path / "w.safetensors")


def test_without_safetensors_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(FormatError, match=r"mx-plugin\[safetensors\]"):
        save_file({}, tmp_path / "w.safetensors")
