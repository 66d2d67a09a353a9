"""Layers' seconds: whose they are, in which phase and format, forward and backward."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

pytest.importorskip("transformers")

from mx_plugin.execution.phases import TRACKER
from mx_trl.profiler.labels import Formats, layers_of
from mx_trl.profiler.layers import HostTime, Key, LayerTimer, Total, own_nodes


@pytest.fixture(autouse=True)
def _at_rest() -> Any:
    yield
    TRACKER.subscribe(print)
    TRACKER.unsubscribe(print)  # the last listener to leave puts it back to rest


class Sleepy(torch.autograd.Function):
    """The identity; its backward takes as long as it is told."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, seconds: float) -> torch.Tensor:
        ctx.seconds = seconds
        return x.clone()

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        time.sleep(ctx.seconds)
        return dy, None


class Slow(nn.Module):
    def __init__(self, forward: float, backward: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.seconds = forward, backward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds[0])
        return Sleepy.apply(x * self.weight, self.seconds[1])


class Model(nn.Module):
    """Two branches over one input, then a third layer."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.last = Slow(0.02, 0.04), Slow(0.03, 0.01), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.left(x) + self.right(x))


def timed(model: nn.Module, run: Callable[[], object]) -> dict[Key, Total]:
    timer = LayerTimer(layers_of({"policy": model}), Formats(), HostTime())
    timer.install()
    try:
        run()
        return timer.drain()
    finally:
        timer.remove()


def key(layer: str, direction: str = "forward", phase: str = "gradient") -> Key:
    return Key(phase, "policy", layer, "FP16[float32]", direction)


def test_forward_and_backward_are_each_layers_own() -> None:
    model = Model()
    found = timed(model, lambda: model(torch.ones(2, 4, requires_grad=True)).sum().backward())
    assert {k.layer: total.calls for k, total in found.items()} == {"left": 1, "right": 1, "last": 1}
    assert len(found) == 6
    for layer, forward, backward in (("left", 0.02, 0.04), ("right", 0.03, 0.01)):
        for direction, least in (("forward", forward), ("backward", backward)):
            others = 0.15 - forward - backward  # far more than a layer's share, were it to hold another's
            assert least <= found[key(layer, direction)].seconds < least + others, (layer, direction)


def test_a_pass_without_gradients_is_reward_and_has_no_backward() -> None:
    model = Model()
    with torch.no_grad():
        found = timed(model, lambda: model(torch.ones(2, 4)))
    assert set(found) == {key(name, phase="reward") for name in ("left", "right", "last")}


def test_a_forward_computed_again_is_not_counted_as_the_backward_that_asked_for_it() -> None:
    model = Slow(0.05, 0.0)

    def run() -> None:
        y = checkpoint(model, torch.ones(2, 4, requires_grad=True), use_reentrant=False)
        y.sum().backward()

    found = timed(model, run)
    assert found[key("Slow")].calls == 2
    assert found[key("Slow")].seconds >= 0.1
    assert found[key("Slow", "backward")].seconds < 0.05


def test_hooks_are_gone_after_a_window_and_a_late_backward_is_not_timed() -> None:
    model = Model()
    timer = LayerTimer(layers_of({"policy": model}), Formats(), HostTime())
    timer.install()
    y = model(torch.ones(2, 4, requires_grad=True))
    timer.remove()
    timer.drain()
    y.sum().backward()
    assert timer.drain() == {}
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks and not module._forward_hooks_always_called


def test_a_layer_that_raises_leaves_no_open_range() -> None:
    class Failing(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no")

    model = nn.Sequential(nn.Linear(4, 4), Failing(4, 4))

    def run() -> None:
        with pytest.raises(RuntimeError, match="no"):
            model(torch.ones(4))
        model[0](torch.ones(4))

    found = timed(model, run)
    assert found[key("0")].calls == 2
    assert found[key("1")].calls == 1


def test_numbers_are_the_same_with_and_without() -> None:
    def gradients(measure: bool) -> list[torch.Tensor]:
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 2))
        run = lambda: model(torch.ones(3, 8)).square().sum().backward()  # noqa: E731
        if measure:
            assert timed(model, run)
        else:
            run()
        return [p.grad for p in model.parameters() if p.grad is not None]

    plain, measured = gradients(False), gradients(True)
    assert len(plain) == 6
    assert all(torch.equal(a, b) for a, b in zip(plain, measured, strict=True))


def test_a_layers_nodes_end_at_its_inputs() -> None:
    layer = nn.Linear(4, 4)
    h = torch.ones(2, 3, 4, requires_grad=True) * 2
    y = layer(h)
    names = {node.name() for node in own_nodes(y.grad_fn, [h.grad_fn])}
    assert "AddmmBackward0" in names
    assert "MulBackward0" not in names
    assert "MulBackward0" in {node.name() for node in own_nodes(y.grad_fn, [])}


def test_a_graph_that_does_not_begin_at_the_layer_is_left_alone() -> None:
    y = torch.ones(2, requires_grad=True)
    for _ in range(100):
        y = y * 1.5
    assert own_nodes(y.grad_fn, []) == []


def test_shared_and_nested_modules_are_timed_once() -> None:
    shared = nn.Linear(4, 4)
    policy, value = nn.Sequential(shared, nn.ReLU()), nn.Sequential(shared, nn.Linear(4, 1))
    found = [(layer.role, layer.name) for layer in layers_of({"policy": policy, "value": value})]
    assert found == [("policy", "0"), ("value", "1")]
