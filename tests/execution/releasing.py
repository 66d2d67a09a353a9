"""What the tests of released weights share."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mx_plugin import quantize
from mx_plugin.execution.engine import Engine
from mx_plugin.execution.layer import AdoptedLayer

BOTH = "MXFP8/MXFP8"
ALL_MXFP8 = {"defaults": {"rollout": "MXFP8", "reward": "MXFP8", "gradient": "MXFP8"}}
C_LIKE = {"defaults": {"rollout": "MXFP4", "reward": "MXFP8", "gradient": "FP16"}}
DGRAD_FP16 = {
    "defaults": {
        "rollout": "MXFP8",
        "reward": "MXFP8",
        "gradient": {"forward": BOTH, "dgrad": "FP16/MXFP8", "wgrad": BOTH},
    }
}


class Memory:
    """A source of weights that stands in for files: what was there when it was made, unless someone changes it."""

    def __init__(self, model: nn.Module) -> None:
        self.stored = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        self.broken = False

    def __call__(self, layer: AdoptedLayer) -> Any:
        return Entry(self, f"{layer.name}.weight")


class Entry:
    def __init__(self, memory: Memory, name: str) -> None:
        self.memory, self.name = memory, name

    def read(self) -> torch.Tensor:
        if self.memory.broken:
            raise OSError("the disk is gone")
        return self.memory.stored[self.name]

    def describe(self) -> dict[str, str]:
        return {"file": "memory", "tensor": self.name}


def decoded(weight: torch.Tensor, fmt: str = "MXFP8") -> torch.Tensor:
    """The definition: what the weight is worth once packed, blocked along ``in``."""
    return quantize(weight, fmt, scale_rule="rceil").dequantize()


def reasons(engine: Engine) -> dict[str, str]:
    return {f"{item.role}:{item.name}": item.reason for item in engine.releases.kept}


def released(engine: Engine) -> set[str]:
    return {f"{release.layer.role}:{release.layer.name}" for release in engine.releases.done}
