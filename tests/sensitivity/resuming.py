"""The profile that is interrupted, and what it leaves in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mx_plugin.sensitivity import Profile, profile
from tests.sensitivity.tiny import TinyModel, tiny_batches

SETTINGS: dict[str, Any] = {"formats": ["MXFP4", "MXFP8"], "phases": ["rollout", "gradient"]}

PARTIAL = "matrix.csv.partial"


def run(folder: Path, **changes: Any) -> Profile:
    folder.mkdir(exist_ok=True)
    arguments = {"resume": True, **SETTINGS, **changes}
    model, batches = arguments.pop("model", None) or TinyModel(), arguments.pop("batches", None) or tiny_batches()
    return profile(model, batches, output=folder / "matrix.csv", **arguments)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def lines_in(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0
