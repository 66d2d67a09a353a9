"""Probing a model in a phase's formats leaves no trace in the engine."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

from mx_plugin.execution.products import LayerProducts


@pytest.mark.parametrize("pair", ["MXFP4/MXFP8", "FP16/MXFP8", "MXFP8/FP16"])
def test_many_probes_keep_no_more_in_memory_than_one(
    engines: Any, model: torch.nn.Module, x: torch.Tensor, pair: str
) -> None:
    engine = engines({"defaults": {"rollout": pair, "gradient": pair}}, {"policy": model})

    def probe(times: int) -> int:
        with torch.no_grad():
            for _ in range(times):
                for phase in ("rollout", "gradient"):
                    with engine.probing(policy=phase):
                        model(x)
        gc.collect()
        return sum(isinstance(thing, LayerProducts) for thing in gc.get_objects())

    once = probe(1)
    assert probe(20) == once


def test_a_probe_draws_nothing_from_the_streams_of_training(engines: Any, model: Any, x: torch.Tensor) -> None:
    product = {"format": "MXFP4/MXFP4", "rounding": "stochastic"}
    gradient = {"forward": product, "dgrad": product, "wgrad": product}
    engine = engines({"defaults": {"rollout": "MXFP4", "gradient": gradient}}, {"policy": model})

    def step(probed: bool) -> list[torch.Tensor]:
        engine.advance(0)
        model.zero_grad()
        if probed:
            with torch.no_grad(), engine.probing(policy="gradient"):
                model(x)
        y = model(x)
        y.sum().backward()
        return [y.detach(), *(p.grad.clone() for p in model.parameters())]

    assert all(torch.equal(a, b) for a, b in zip(step(False), step(True), strict=True))


def test_what_a_layer_executes_now_is_told_of_phases_and_of_probes(engines: Any, model: Any, x: torch.Tensor) -> None:
    policy = {"defaults": {"rollout": "MXFP4", "reward": "MXFP6", "gradient": "MXFP8"}}
    engine = engines(policy, {"policy": model})
    layer = engine.layers[0]

    def now() -> str:
        return str(engine.executing(layer).forward.pair.weights)

    assert now() == "FP16"
    with engine.phase("rollout"):
        assert now() == "MXFP4"
        with torch.no_grad(), engine.probing(policy="gradient"):
            assert now() == "MXFP8"
            with engine.probing(policy="FP16"):
                assert now() == "FP16"
            assert now() == "MXFP8"
        assert now() == "MXFP4"
    with torch.no_grad():
        model(x)
        assert now() == "MXFP8"  # policy_scoring: a pass without gradients takes the gradient's formats
