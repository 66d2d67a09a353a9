"""Level ``trains``: the engine runs a small model on it, in rollout and gradient, and takes an optimiser's step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.functional import linear

from ...execution.engine import Engine
from ...formats import Pair, fake_quantize
from ...formats.spec import FP16
from ...interfaces import Backend, Provider
from ...precision.formats import LayerFormats, Product
from ..check import Level
from ..fault import NotApplicable, demand, demand_near, demand_same
from .trial import BackendTrial, gaussian

LEVEL = Level("backend", "trains", "the engine runs a model on it and takes a step", BackendTrial)

SUMS = 2.0**-14
"""Error that gradients may have relative to their largest, in float32 sums of exact products."""


class _OneFormat(Provider):
    def __init__(self, product: Product) -> None:
        self._formats = LayerFormats(product, product, product)

    def get_precision(self, layer_name: str, phase: str, role: str = "policy") -> LayerFormats:
        return self._formats


def model() -> nn.Sequential:
    """Two linear layers, 64 -> 96 -> 32, with and without bias; the same in every run."""
    first, second = nn.Linear(64, 96), nn.Linear(96, 32, bias=False)
    with torch.no_grad():
        first.weight.copy_(gaussian(96, 64, seed=1) / 8)
        first.bias.copy_(gaussian(96, seed=2))
        second.weight.copy_(gaussian(32, 96, seed=3) / 10)
    return nn.Sequential(first, nn.ReLU(), second)


@contextmanager
def engine(trial: BackendTrial, trained: nn.Module, backend: Backend | None = None) -> Iterator[tuple[Engine, Product]]:
    """An engine that executes ``trained`` on the backend in its first pair, in every phase."""
    weights, activations = trial.pair
    product = Product(Pair(weights, activations), scale_rule="floor")
    with Engine(_OneFormat(product), backend or trial.backend) as running:
        running.adopt({"policy": trained})
        yield running, product


@LEVEL.check
def rollout(trial: BackendTrial) -> None:
    """In rollout, under inference_mode as in generation, each layer is the backend's product with its bias."""
    trial.need_formats_values()
    trained, x = model(), gaussian(5, 64, seed=4)
    first = trained[0]
    assert isinstance(first, nn.Linear)
    with engine(trial, trained) as (running, product), running.phase("rollout"), torch.inference_mode():
        y = first(x)
    packed = trial.backend.quantize(first.weight.detach(), product.pair.weights)
    trial.demand_product(y.clone(), x, packed, product.pair.activations, "a layer in rollout", bias=first.bias.detach())


@LEVEL.check
def gradients(trial: BackendTrial) -> None:
    """In gradient, loss and gradients are those of the three products of cast operands."""
    _need_gradients(trial)
    trained, x = model(), gaussian(40, 64, seed=5)
    with engine(trial, trained) as (_, product):
        loss = trained(x).square().sum()
        loss.backward()
    due = expected_gradients(x, product)
    for name, parameter in trained.named_parameters():
        demand(parameter.grad is not None, f"{name} has no gradient")
        assert parameter.grad is not None
        largest = due[name].abs().max()
        allowed = torch.full_like(due[name], float(largest)) * SUMS
        demand_near(parameter.grad, due[name].float(), allowed, f"the gradient of {name}", "sum products in float32")


@LEVEL.check
def a_step(trial: BackendTrial) -> None:
    """After an optimiser's step, rollout multiplies the new weights."""
    trained, x = model(), gaussian(5, 64, seed=6)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.05)
    with engine(trial, trained) as (running, _):
        _in_rollout(running, trained, x)
        trained(x).square().mean().backward()
        optimizer.step()
        after = _in_rollout(running, trained, x)
    fresh = model()
    fresh.load_state_dict(trained.state_dict())
    with engine(trial, fresh, trial.fresh()) as (running, _):
        due = _in_rollout(running, fresh, x)
    demand_same(after, due, "rollout after a step, against one with the same weights", "keep no weight by its name")


def _in_rollout(running: Engine, trained: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with running.phase("rollout"), torch.no_grad():
        y: torch.Tensor = trained(x)
    return y.clone()


def _need_gradients(trial: BackendTrial) -> None:
    trial.need_formats_values()
    if trial.pair[1] == FP16:
        raise NotApplicable("it casts no activations")


def expected_gradients(x: torch.Tensor, product: Product) -> dict[str, torch.Tensor]:
    """In float64, from operands that the reference casts: dX blocks along ``out``, dW along tokens."""
    trained = model()
    first, second = trained[0], trained[2]
    assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear)
    w1, b1, w2 = first.weight.detach(), first.bias.detach(), second.weight.detach()
    weights, other = product.pair.weights, product.pair.activations

    def cast(operand: torch.Tensor, fmt: str, dim: int) -> torch.Tensor:
        return fake_quantize(operand.float(), fmt, dim).double()

    hidden = (linear(cast(x, other, -1), cast(w1, weights, -1)) + b1.double()).float()
    active = hidden.relu()
    y = linear(cast(active, other, -1), cast(w2, weights, -1)).float()
    dy = 2 * y
    dw2 = cast(dy, other, 0).t() @ cast(active, other, 0)
    dhidden = ((cast(dy, other, -1) @ cast(w2, weights, 0)).float()) * (hidden > 0)
    dw1 = cast(dhidden, other, 0).t() @ cast(x, other, 0)
    return {"0.weight": dw1, "0.bias": dhidden.double().sum(0), "2.weight": dw2}
