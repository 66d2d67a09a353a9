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
