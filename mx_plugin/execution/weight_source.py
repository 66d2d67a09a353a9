"""Where a released weight can be read again, and the proof that it is still the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Protocol

import torch


class WeightSource(Protocol):
    """One tensor in a local file. Framework adapters know where models came from; the core asks only this."""

    def read(self) -> torch.Tensor:
        """The tensor as the file holds it, on the CPU. May raise anything: the weight is then not reloaded."""
        ...

    def describe(self) -> Mapping[str, str]:
        """Plain data for config.json, e.g. the file and the tensor's name."""
        ...


def digest(tensor: torch.Tensor) -> str:
    """SHA-256 (hexadecimal) of the tensor's bytes in row-major order."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()


def same_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Same shape, dtype and bits: NaN equals itself, -0.0 is not 0.0."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    return torch.equal(*(t.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for t in (first, second)))


class CheckedSource:
    """A source that held exactly ``weight`` when this was made: ``sha256`` is that of the tensor in the file.

    Raises:
        ValueError: it cannot be read or holds something else; the message says what.
    """

    def __init__(self, source: WeightSource, weight: torch.Tensor) -> None:
        stored = _read(source)
        if stored.shape != weight.shape or not same_bits(stored.to(weight.dtype), weight.cpu()):
            raise ValueError("the file's tensor is not the weight that the model has now")
        self.source = source
        self.sha256 = digest(stored)

    def reload(self, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """The tensor again, in memory of its own.

        Raises:
            ValueError: it cannot be read, or its hash is not the recorded one.
        """
        stored = _read(self.source)
        if digest(stored) != self.sha256:
            raise ValueError("the file's tensor has changed since: its SHA-256 is not the recorded one")
        # Readers may hand out a view of a mapped file; a parameter must own its memory.
        return torch.empty(stored.shape, dtype=dtype, device=device).copy_(stored)

    def describe(self) -> dict[str, str]:
        """Plain data for config.json."""
        return {**self.source.describe(), "sha256": self.sha256}


def _read(source: WeightSource) -> torch.Tensor:
    try:
        return source.read()
    except Exception as error:  # whatever a reader of files may raise, the run goes on with the packed copy
        raise ValueError(f"it cannot be read: {type(error).__name__}: {error}") from error
