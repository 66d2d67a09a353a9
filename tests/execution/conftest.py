"""A small model in plain torch: the engine needs no framework."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import nn

from mx_plugin import get_backend
from mx_plugin.execution.engine import Engine
from mx_plugin.execution.phases import TRACKER
from mx_plugin.interfaces import Backend
from mx_plugin.precision import PolicyProvider, PrecisionPolicy


class TwoLayers(nn.Module):
    """Two linear layers and a head, 64 -> 48 -> 64 -> 10: K = 48 has a ragged last block."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(64, 48)
        self.down = nn.Linear(48, 64, bias=False)
        self.lm_head = nn.Linear(64, 10, bias=False)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lm_head(x + self.down(torch.nn.functional.silu(self.up(x))))


@pytest.fixture
def model() -> TwoLayers:
    torch.manual_seed(0)
    return TwoLayers()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(5, 64, generator=torch.Generator().manual_seed(1))


def make_policy(**data: Any) -> PrecisionPolicy:
    """A policy from the mapping that a YAML file would hold."""
    return PrecisionPolicy.from_dict({"version": 1, "name": "test", **data})


C_LIKE: Mapping[str, Any] = {
    "defaults": {"rollout": "MXFP4", "reward": "MXFP8", "gradient": "FP16"},
    "lm_head": {"rollout": "MXFP8"},
}


@pytest.fixture
def engines() -> Iterator[Any]:
    """``engines(policy_mapping, {role: model}, backend, **options)``: adopted engines, restored at the end."""
    made: list[Engine] = []

    def make(
        policy: Mapping[str, Any], roots: Mapping[str, nn.Module], backend: Backend | str = "reference", **options: Any
    ) -> Engine:
        backend = get_backend(backend) if isinstance(backend, str) else backend
        engine = Engine(PolicyProvider(make_policy(**policy)), backend, **options)
        engine.adopt(roots)
        made.append(engine)
        return engine

    yield make
    for engine in made:
        engine.restore()
    assert TRACKER.phase == "other"


@pytest.fixture(params=["cpu", "reference"])
def adopt(request: pytest.FixtureRequest) -> Iterator[Callable[..., Engine]]:
    """``adopt(policy_mapping, {role: model}, **options)``, on either backend."""
    made: list[Engine] = []

    def make(policy: Any, roots: Any, **options: Any) -> Engine:
        engine = Engine(PolicyProvider(make_policy(**policy)), get_backend(request.param), **options)
        engine.adopt(roots)
        made.append(engine)
        return engine

    yield make
    for engine in made:
        engine.restore()


@pytest.fixture
def frozen(model: TwoLayers) -> TwoLayers:
    return model.requires_grad_(False)
