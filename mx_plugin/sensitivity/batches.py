"""The tokens on which a model is compared with itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from .errors import ProfileError


@dataclass(frozen=True)
class Batch:
    """Inputs of one forward pass.

    Args:
        inputs: keyword arguments of the model; tensors begin with (sequences, length). Those of a language model
            hold ``input_ids``, int64.
        counted: (sequences, length) bool, the positions whose output counts; None takes ``attention_mask``, else
            all of them.

    Raises:
        ProfileError: no tensor among the inputs, no sequence, or no position that counts.
    """

    inputs: Mapping[str, Any]
    counted: torch.Tensor | None = field(default=None)

    def __post_init__(self) -> None:
        first = next((value for value in self.inputs.values() if isinstance(value, torch.Tensor)), None)
        if first is None or first.dim() < 2 or first.numel() == 0:
            shape = "no tensor" if first is None else f"shape {tuple(first.shape)}"
            raise ProfileError(f"a batch needs inputs of shape (sequences, length, ...), found {shape}")
        counted = self.counted
        if counted is None:
            mask = self.inputs.get("attention_mask")
            counted = torch.ones(first.shape[:2], dtype=torch.bool) if mask is None else mask.bool()
        if counted.shape != first.shape[:2] or counted.dtype != torch.bool:
            raise ProfileError(
                f"counted is {counted.dtype} of shape {tuple(counted.shape)}; "
                f"give bool of shape {tuple(first.shape[:2])}"
            )
        if not counted.any():
            raise ProfileError("no position of the batch counts; look at its mask")
        object.__setattr__(self, "counted", counted.cpu())

    @property
    def mask(self) -> torch.Tensor:
        """(sequences, length) bool, on the CPU."""
        assert self.counted is not None
        return self.counted

    @property
    def last_counted(self) -> torch.Tensor:
        """(sequences,) int64: the last position of each sequence that counts.

        Raises:
            ProfileError: a sequence of which nothing counts.
        """
        if not bool(self.mask.any(dim=1).all()):
            raise ProfileError("a sequence of which no position counts has no score; leave it out")
        positions = torch.arange(self.mask.shape[1]).expand_as(self.mask)
        return torch.where(self.mask, positions, -1).amax(dim=1)

    def to(self, device: torch.device) -> dict[str, Any]:
        """The inputs on a device."""
        return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in self.inputs.items()}


BatchLike = Batch | Mapping[str, Any] | torch.Tensor
"""A :class:`Batch`; a mapping of model inputs (with ``counted`` among them, if needed); or token ids."""


def as_batches(given: Iterable[BatchLike], whose: str) -> list[Batch]:
    """Check and normalise.

    Raises:
        ProfileError: there are none, or one that is no batch; ``whose`` says where they came from.
    """
    batches = []
    for number, item in enumerate(given):
        try:
            batches.append(_as_batch(item))
        except ProfileError as error:
            raise ProfileError(f"batch {number} of {whose}: {error}") from None
    if not batches:
        raise ProfileError(f"{whose} has no batches: the data set is empty, so there is nothing to compare on")
    return batches


def _as_batch(item: BatchLike) -> Batch:
    if isinstance(item, Batch):
        return item
    if isinstance(item, torch.Tensor):
        return Batch({"input_ids": item})
    if isinstance(item, Mapping):
        inputs = dict(item)
        return Batch(inputs, inputs.pop("counted", None))
    raise ProfileError(f"a {type(item).__name__} is no batch; give token ids, a mapping of model inputs, or a Batch")


def digest(batches: Sequence[Batch]) -> str:
    """SHA-256 over names, shapes and values of all tensors, first 16 hex digits: the same data, the same word."""
    sha = hashlib.sha256()
    for batch in batches:
        for name, value in [*sorted(batch.inputs.items()), ("counted", batch.mask)]:
            sha.update(f"{name}:".encode())
            if isinstance(value, torch.Tensor):
                sha.update(f"{value.dtype}{tuple(value.shape)}".encode())
                sha.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
            else:
                sha.update(repr(value).encode())
    return sha.hexdigest()[:16]
