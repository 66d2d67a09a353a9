"""A small model with GPT-2's names, and controllers that are always detached."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from mx_plugin.precision import AdaptiveController


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.ModuleDict({"c_attn": nn.Linear(64, 96), "c_proj": nn.Linear(96, 64)})
        self.mlp = nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn["c_proj"](torch.tanh(self.attn["c_attn"](x)))
        out: torch.Tensor = x + self.mlp(x)
        return out


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.transformer = nn.ModuleDict({"h": nn.ModuleList([Block(), Block()])})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.transformer["h"]:
            x = block(x)
        return x


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def controllers() -> Iterator[Callable[..., AdaptiveController]]:
    """Makes controllers and detaches them all at the end."""
    made: list[AdaptiveController] = []

    def make(*args: object, **options: object) -> AdaptiveController:
        made.append(AdaptiveController(*args, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for controller in made:
        controller.detach()
