"""Weights of the start and of the end of a run: what identifies them, and how they are kept."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import nn


def weights_sha256(model: nn.Module) -> str:
    """SHA-256 of names, shapes, dtypes and bits of every parameter and buffer, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        bits: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        digest.update(bits)
    return digest.hexdigest()


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """The policy as plain safetensors with its tokenizer: loads by ``from_pretrained``. Adapters are merged first."""
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
