"""The three products of training, against the definition written out with the public cast."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mx_plugin import fake_quantize
from mx_plugin.execution.layer_types import LayerType
from mx_plugin.execution.operands import Keys, Operands, bind_reference_cast
from mx_plugin.execution.phases import TRACKER
from mx_plugin.execution.scratch import Workspace
from mx_plugin.formats.spec import Pair
from mx_plugin.precision.formats import Product

from .conftest import TwoLayers

ROWS = 37  # tokens: a ragged last block for dW


class Stored(nn.Module):
    """A linear layer whose weight is stored (in, out)."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach().t().clone(memory_format=torch.contiguous_format))
        self.bias = nn.Parameter(linear.bias.detach().clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight + self.bias


@pytest.fixture
def layer() -> nn.ModuleDict:
    torch.manual_seed(3)
    return nn.ModuleDict({"up": nn.Linear(64, 48)})


def run(layer: nn.ModuleDict, x: torch.Tensor, dy: torch.Tensor) -> tuple[torch.Tensor, ...]:
    leaf = x.clone().requires_grad_()
    y = layer["up"](leaf)
    layer.zero_grad()
    y.backward(dy)
    return y.detach(), leaf.grad, layer["up"].weight.grad, layer["up"].bias.grad


def tensors(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return (
        torch.randn(ROWS, 64, generator=generator).to(dtype),
        torch.randn(ROWS, 48, generator=generator).to(dtype),
    )


def policy(gradient: Any) -> dict[str, Any]:
    return {"defaults": {"rollout": "FP16", "reward": "FP16", "gradient": gradient}}


def test_a_single_name_quantises_every_operand_along_its_own_reduction(engines: Any, layer: nn.ModuleDict) -> None:
    x, dy = tensors()
    w, b = layer["up"].weight.detach().clone(), layer["up"].bias.detach().clone()
    engines(policy("MXFP6"), {"policy": layer})
    y, dx, dw, db = run(layer, x, dy)

    def q(t: torch.Tensor, fmt: str, dim: int) -> torch.Tensor:
        return fake_quantize(t, fmt, dim, scale_rule="rceil")

    torch.testing.assert_close(y, q(x, "MXFP8", -1) @ q(w, "MXFP6", -1).T + b)
    torch.testing.assert_close(dx, q(dy, "MXFP8", -1) @ q(w, "MXFP6", 0))
    torch.testing.assert_close(dw, q(dy, "MXFP8", 0).T @ q(x, "MXFP8", 0))
    torch.testing.assert_close(db, dy.sum(0))


def test_each_product_takes_its_own_pair(engines: Any, layer: nn.ModuleDict) -> None:
    """forward is W/X, dgrad W/dY, wgrad X/dY."""
    x, dy = tensors()
    w, b = layer["up"].weight.detach().clone(), layer["up"].bias.detach().clone()
    pairs = {"forward": "MXFP8/FP16", "dgrad": "FP16/MXFP8", "wgrad": "MXINT8/FP16"}
    engines(policy(pairs), {"policy": layer})
    y, dx, dw, _ = run(layer, x, dy)
    torch.testing.assert_close(y, x @ fake_quantize(w, "MXFP8", -1, scale_rule="rceil").T + b)
    torch.testing.assert_close(dx, fake_quantize(dy, "MXFP8", -1, scale_rule="rceil") @ w)
    torch.testing.assert_close(dw, dy.T @ fake_quantize(x, "MXINT8", 0, scale_rule="rceil"))


@pytest.mark.parametrize("scale_rule", ["rceil", "floor"])
def test_mxfp4_gradients_are_unbiased(engines: Any, layer: nn.ModuleDict, scale_rule: str) -> None:
    """Averaged over steps, stochastically rounded products approach the exact ones."""
    x, dy = tensors()
    w = layer["up"].weight.detach().clone()
    products = {name: {"format": "MXFP4/MXFP4", "rounding": "stochastic", "scale_rule": scale_rule}
                for name in ("dgrad", "wgrad")}  # fmt: skip
    engine = engines(policy({"forward": "FP16/FP16", **products}), {"policy": layer})
    steps = 200
    dxs, dws = [], []
    for step in range(steps):
        engine.advance(step)
        _, dx, dw, _ = run(layer, x, dy)
        dxs.append(dx.clone())
        dws.append(dw.clone())
    for draws, exact in ((torch.stack(dxs), dy @ w), (torch.stack(dws), dy.T @ x)):
        standard_error = draws.std(0) / steps**0.5
        deviation = ((draws.mean(0) - exact).abs() / standard_error.clamp_min(1e-6)).square().mean().sqrt()
        assert deviation < 1.2, "root mean square z-score of an unbiased estimate is 1"


@pytest.mark.parametrize("scale_rule", ["rceil", "floor"])
def test_mxfp4_gradients_of_a_bfloat16_model_are_unbiased(scale_rule: str) -> None:
    """The 3/4 prescale of ``floor`` must not be rounded to bfloat16: no draw could undo that."""
    x = torch.full((32, 32), 1 + 2**-7, dtype=torch.bfloat16)
    product = Product(Pair("MXFP4", "FP16"), "stochastic", scale_rule)
    operands = Operands("dgrad", product, (-1, -1), bind_reference_cast, Keys(0, "layer"))
    workspace = Workspace()
    draws = []
    for call in range(300):
        cast, other, factor = operands.cast(x, x, (x.dtype, x.dtype), workspace, 0, call)
        assert cast.dtype == other.dtype == x.dtype
        draws.append(float(cast.double().mean()) * factor)
    mean = torch.tensor(draws, dtype=torch.float64)
    standard_error = float(mean.std()) / len(draws) ** 0.5
    assert abs(float(mean.mean()) - float(x[0, 0])) < 4 * standard_error


def test_the_same_seed_and_step_draw_the_same_bits(engines: Any, layer: nn.ModuleDict) -> None:
    x, dy = tensors()
    results = []
    for _ in range(2):
        engine = engines(policy("MXFP4"), {"policy": layer}, seed=11)
        engine.advance(7)
        results.append(run(layer, x, dy))
        engine.advance(8)
        results.append(run(layer, x, dy))
        engine.restore()
    assert all(torch.equal(a, b) for a, b in zip(results[0], results[2], strict=True))
    assert not torch.equal(results[0][1], results[1][1]), "another step draws other bits"


def test_a_hadamard_transform_keeps_the_product(engines: Any, layer: nn.ModuleDict) -> None:
    """Turning both operands cancels in the product: what is left is quantisation error."""
    x, dy = tensors()
    w, b = layer["up"].weight.detach().clone(), layer["up"].bias.detach().clone()
    turned = {"format": "MXFP8/MXFP8", "hadamard": True}
    engines(policy({"forward": turned, "dgrad": turned, "wgrad": turned}), {"policy": layer})
    y, dx, dw, _ = run(layer, x, dy)
    for got, exact in ((y, x @ w.T + b), (dx, dy @ w), (dw, dy.T @ x)):
        assert (got - exact).norm() / exact.norm() < 0.06


def test_batches_of_any_rank_train(engines: Any, layer: nn.ModuleDict) -> None:
    x, dy = tensors()
    engines(policy("MXFP8"), {"policy": layer})
    flat = run(layer, x, dy)
    folded = run(layer, x.reshape(1, ROWS, 1, 64), dy.reshape(1, ROWS, 1, 48))
    for a, b in zip(flat, folded, strict=True):
        assert torch.equal(a.reshape(-1), b.reshape(-1))


def test_autocast_multiplies_in_its_dtype(engines: Any, model: TwoLayers, x: torch.Tensor) -> None:
    plain = copy.deepcopy(model)
    engines(policy("MXFP8"), {"policy": model})
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x)
        assert y.dtype == plain(x).dtype == torch.bfloat16
    y.float().sum().backward()
    assert model.up.weight.grad.dtype == torch.float32
    assert TRACKER.phase == "gradient"


@pytest.mark.parametrize("forward", [{"rounding": "stochastic"}, {"hadamard": True}])
def test_a_checkpointed_forward_draws_the_same_bits_when_it_is_recomputed(
    engines: Any, forward: dict[str, Any]
) -> None:
    """Gradients of another draw than the one that made the loss would be gradients of another function."""
    x, dy = tensors()
    gradients = []
    for checkpointed in (False, True):
        torch.manual_seed(3)
        layers = nn.ModuleDict({"up": nn.Linear(64, 64), "down": nn.Linear(64, 48)})
        products = {"forward": {"format": "MXFP4/MXFP4", **forward}, "dgrad": "MXFP8/MXFP8", "wgrad": "MXFP8/MXFP8"}
        engine = engines(policy(products), {"policy": layers})

        def both(x: torch.Tensor, layers: nn.ModuleDict = layers) -> torch.Tensor:
            y: torch.Tensor = layers["down"](torch.tanh(layers["up"](x)))
            return y

        y = checkpoint(both, x, use_reentrant=False) if checkpointed else both(x)
        y.backward(dy)
        gradients.append([parameter.grad for parameter in layers.parameters()])
        engine.restore()
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.equal(plain, recomputed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_weight_that_is_stored_transposed_trains_alike(
    engines: Any, backend: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPT-2's Conv1D stores (in, out): the same products, and a gradient that lies as the weight does."""
    torch.manual_seed(7)
    linear = nn.Linear(96, 160).to(dtype)
    conv = Stored(linear)
    monkeypatch.setattr("mx_plugin.plugins.layer_types", lambda: [LayerType(nn.Linear), LayerType(Stored, True)])
    engines(policy("MXFP8"), {"policy": nn.ModuleDict({"up": linear}), "value": nn.ModuleDict({"up": conv})}, backend)
    x, dy = torch.randn(ROWS, 96, dtype=dtype), torch.randn(ROWS, 160, dtype=dtype)
    results = []
    for layer in (linear, conv):
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        y.backward(dy)
        results.append((y.detach(), leaf.grad, layer.weight.grad, layer.bias.grad))
    assert results[1][2].is_contiguous()
    for a, b in zip(results[0], (*results[1][:2], results[1][2].t(), results[1][3]), strict=True):
        torch.testing.assert_close(a, b)
