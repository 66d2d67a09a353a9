"""Packed weights are never stale, whoever wrote the weight and however little changed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from .conftest import C_LIKE, TwoLayers
from .test_engine import expected


def rolled_out(engine: Any, model: TwoLayers, x: torch.Tensor) -> torch.Tensor:
    with engine.phase("rollout"), torch.no_grad():
        return model(x)


@pytest.mark.parametrize("fused", [True, False])
def test_after_an_optimiser_step(engines: Any, model: TwoLayers, x: torch.Tensor, fused: bool) -> None:
    """A step that touches one element only: no sampled fingerprint could be relied on."""
    engine = engines(C_LIKE, {"policy": model})
    rolled_out(engine, model, x)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.5, fused=fused, weight_decay=0.0)
    model.up.weight.grad = torch.zeros_like(model.up.weight)
    model.up.weight.grad[1, 1] = 1.0
    optimiser.step()
    assert torch.equal(rolled_out(engine, model, x), expected(model, x, "MXFP4", "MXFP8"))


def test_after_load_state_dict(engines: Any, model: TwoLayers, x: torch.Tensor) -> None:
    engine = engines(C_LIKE, {"policy": model})
    rolled_out(engine, model, x)
    state = copy.deepcopy(model.state_dict())
    state["up.weight"][1, 1] += 1.0
    model.load_state_dict(state)
    assert torch.equal(rolled_out(engine, model, x), expected(model, x, "MXFP4", "MXFP8"))


def test_after_a_write_through_data_without_any_hook(engines: Any, model: TwoLayers, x: torch.Tensor) -> None:
    """What SyncRefModelCallback does; ``_version`` would not notice either."""
    engine = engines(C_LIKE, {"policy": model})
    rolled_out(engine, model, x)
    for parameter in model.parameters():
        parameter.data.mul_(0.5)
    assert torch.equal(rolled_out(engine, model, x), expected(model, x, "MXFP4", "MXFP8"))


def test_after_the_weights_storage_was_replaced(engines: Any, model: TwoLayers, x: torch.Tensor) -> None:
    engine = engines(C_LIKE, {"policy": model})
    rolled_out(engine, model, x)
    model.up.weight.data = model.up.weight.data.flip(0).contiguous()
    assert torch.equal(rolled_out(engine, model, x), expected(model, x, "MXFP4", "MXFP8"))


def test_a_frozen_model_written_in_place_is_noticed(engines: Any, model: TwoLayers, x: torch.Tensor) -> None:
    frozen = copy.deepcopy(model).requires_grad_(False)
    engines(C_LIKE, {"policy": model, "reward": frozen})
    with torch.no_grad():
        frozen(x)
        torch.nn.functional.silu(x)  # nothing of ours runs in between
        for parameter in frozen.parameters():
            parameter.data.add_(0.25)
    model(x)  # a gradient phase lies between two scorings
    with torch.no_grad():
        assert torch.equal(frozen(x), expected(frozen, x, "MXFP8", None))


def test_explicit_invalidation_reaches_the_next_call_of_the_same_phase(
    engines: Any, model: TwoLayers, x: torch.Tensor
) -> None:
    frozen = copy.deepcopy(model).requires_grad_(False)
    engine = engines(C_LIKE, {"policy": model, "reward": frozen})
    with torch.no_grad():
        frozen(x)
        frozen.up.weight[1, 1] += 1.0
        engine.invalidate("reward")
        assert torch.equal(frozen(x), expected(frozen, x, "MXFP8", None))


def test_unchanged_weights_are_packed_once(engines: Any, model: TwoLayers, x: torch.Tensor) -> None:
    engine = engines(C_LIKE, {"policy": model})
    for _ in range(3):
        rolled_out(engine, model, x)
    assert engine.backend.counters().weights_loaded == 3
