"""What this machine can run, and why: the card, and whether Triton is there. Importing it imports neither."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.util import find_spec

TRITON = "triton"
REFERENCE = "reference"

OLDEST = (8, 0)
"""Ampere: the oldest compute capability with bfloat16 matrix units."""
BLACKWELL = (10, 0)
"""The oldest compute capability with MX matrix units."""


@dataclass(frozen=True)
class Path:
    """What the backend ``cuda`` is here: ``triton`` or ``reference``, and the reason."""

    name: str
    why: str


def path() -> Path:
    """Which implementation serves, by what is installed and by the cards."""
    if find_spec("triton") is None:
        return Path(REFERENCE, "Triton is not installed")
    if interpreted():
        return Path(TRITON, "TRITON_INTERPRET is set: Triton's interpreter, on CPU tensors, thousands of times slower")
    capabilities = _capabilities()
    if not capabilities:
        return Path(REFERENCE, "torch finds no CUDA device")
    if min(capabilities) < OLDEST:
        found = "{}.{}".format(*min(capabilities))
        return Path(REFERENCE, f"a card of compute capability {found}; the kernels need 8.0 (Ampere) or later")
    if max(capabilities) >= BLACKWELL:
        return Path(TRITON, "packed weights, bfloat16 products, and the card's own for many rows of MXFP8")
    return Path(TRITON, "packed weights, bfloat16 products: the card has no MX products of its own")


def interpreted() -> bool:
    """Whether Triton makes kernels for its interpreter in this process."""
    return bool(importlib.import_module("triton").knobs.runtime.interpret)


def device_description() -> str:
    """The current card's name and compute capability, or that there is none."""
    cuda = importlib.import_module("torch").cuda
    if not cuda.is_available():
        return "no CUDA device"
    return "{}, compute capability {}.{}".format(cuda.get_device_name(), *cuda.get_device_capability())


def _capabilities() -> list[tuple[int, int]]:
    cuda = importlib.import_module("torch").cuda
    if not cuda.is_available():
        return []
    return [cuda.get_device_capability(index) for index in range(cuda.device_count())]
