"""Two runs, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    """Every tensor of the trained model, PPO's critic included."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def moments(trainer: Any) -> list[torch.Tensor]:
    """Every tensor of the optimiser's state."""
    state = trainer.optimizer.state_dict()["state"]
    return [value for entry in state.values() for value in entry.values() if isinstance(value, torch.Tensor)]


def differing(first: Any, second: Any) -> list[str]:
    """Names of weights, and ``moments``, that are not the same bits."""
    one, two = weights(first), weights(second)
    names = [name for name in one if not torch.equal(one[name], two[name])]
    pairs = zip(moments(first), moments(second), strict=True)
    return names + (["moments"] if not all(torch.equal(a, b) for a, b in pairs) else [])


def train_log(folder: Path) -> str:
    return (folder / "logs" / "train.jsonl").read_text()


def same_tensors(first: Path, second: Path) -> bool:
    """Whether two safetensors files hold the same names and bits."""
    one, two = load_file(first), load_file(second)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
