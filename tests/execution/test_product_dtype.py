"""What the training products of a float32 model multiply, and what that may cost."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mx_cpu.reference import ReferenceBackend
from mx_plugin import MXConfig, fake_quantize, get_backend
from mx_plugin.errors import PolicyError
from mx_plugin.execution.operands import exact_in_bfloat16
from mx_plugin.formats import format_names
from mx_plugin.interfaces import MatrixProduct

BOUND = 1e-6
"""Of a float32 result, relative to sum |x||w|; that of ``Backend.linear``."""


class WideBackend(ReferenceBackend):
    """A backend that multiplies bfloat16 into float32, and counts how often."""

    def __init__(self) -> None:
        super().__init__()
        self.products = 0

    def bfloat16_product(self, device: torch.device) -> MatrixProduct | None:
        def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            assert a.dtype == b.dtype == torch.bfloat16
            self.products += 1
            return a.float() @ b.float()

        return product


def policy(gradient: Any) -> dict[str, Any]:
    return {"defaults": {"rollout": "FP16", "reward": "FP16", "gradient": gradient}}


def gradients(layer: nn.Linear, x: torch.Tensor, dy: torch.Tensor) -> tuple[torch.Tensor, ...]:
    leaf = x.clone().requires_grad_()
    layer.zero_grad()
    y = layer(leaf)
    y.backward(dy)
    return y.detach(), leaf.grad, layer.weight.grad


@pytest.fixture
def tensors() -> tuple[nn.Linear, torch.Tensor, torch.Tensor]:
    torch.manual_seed(6)
    return nn.Linear(96, 80), torch.randn(45, 96), torch.randn(45, 80) * 1e-3


def train(engines: Any, tensors: Any, backend: Any, choice: str, gradient: Any = "MXFP8") -> Any:
    layer, x, dy = tensors
    engine = engines(policy(gradient), {"policy": nn.ModuleDict({"up": layer})}, backend, gradient_product_dtype=choice)
    results = gradients(layer, x, dy)
    work = {(w.format, w.dtype): w.macs for w in engine.collect()}
    engine.restore()
    return results, work, engine


def definition(
    tensors: Any, fmt: str = "MXFP8"
) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """(product, sum |a||b|) of forward, dgrad and wgrad in float64."""
    layer, x, dy = tensors
    w = layer.weight.detach()

    def q(t: torch.Tensor, dim: int, name: str = fmt) -> torch.Tensor:
        return fake_quantize(t, name, dim, scale_rule="rceil").double()

    def both(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return a @ b, a.abs() @ b.abs()

    y, s = both(q(x, -1, "MXFP8"), q(w, -1).T)
    bias = layer.bias.detach().double()
    return (
        (y + bias, s + bias.abs()),
        both(q(dy, -1, "MXFP8"), q(w, 0)),
        both(q(dy, 0, "MXFP8").T, q(x, 0, "MXFP8")),
    )


@pytest.mark.parametrize("fmt", [name for name in format_names() if exact_in_bfloat16(name)])
@pytest.mark.parametrize("backend", ["wide", "cpu", "reference"])
def test_auto_stays_within_the_bound_of_float32_sums(engines: Any, tensors: Any, backend: str, fmt: str) -> None:
    made = WideBackend() if backend == "wide" else get_backend(backend)
    # Rounded to nearest: MXFP4 would draw.
    products = {name: {"format": f"{fmt}/MXFP8", "rounding": "nearest"} for name in ("forward", "dgrad")}
    products["wgrad"] = {"format": "MXFP8/MXFP8", "rounding": "nearest"}
    results, _, _ = train(engines, tensors, made, "auto", products)
    for got, (exact, size) in zip(results, definition(tensors, fmt), strict=True):
        assert got.dtype == torch.float32
        assert float(((got.double() - exact).abs() / size).max()) < BOUND


def test_every_registered_format_is_known_to_be_exact_in_bfloat16_or_not() -> None:
    """All values of a format's elements, times a power of two, against torch's own rounding."""
    for name in format_names():
        codes = torch.randn(4096) * torch.exp2(torch.randint(-12, 3, (4096,)).float())
        values = fake_quantize(codes, name)
        assert torch.equal(values.bfloat16().float(), values) or not exact_in_bfloat16(name)
    assert all(exact_in_bfloat16(name) for name in ("MXFP8", "MXFP8_E5M2", "MXFP6", "MXFP6_E3M2", "MXFP4", "MXINT8"))
    assert not exact_in_bfloat16("FP16")


def test_auto_multiplies_bfloat16_only_where_results_stay_float32(engines: Any, tensors: Any) -> None:
    wide = WideBackend()
    _, work, engine = train(engines, tensors, wide, "auto")
    assert wide.products == 3
    assert set(work) == {("MXFP8/MXFP8", "bfloat16")}
    assert engine.gradient_products()["layers"] == {"bfloat16, results float32": 1}
    _, work, engine = train(engines, tensors, "reference", "auto")
    assert set(work) == {("MXFP8/MXFP8", "float32")}
    assert engine.gradient_products()["layers"] == {"float32": 1}


def test_float32_has_the_bits_of_a_backend_without_such_products(engines: Any, tensors: Any) -> None:
    wide = WideBackend()
    kept, work, _ = train(engines, tensors, wide, "float32")
    plain, _, _ = train(engines, tensors, "reference", "auto")
    assert wide.products == 0 and set(work) == {("MXFP8/MXFP8", "float32")}
    assert all(torch.equal(a, b) for a, b in zip(kept, plain, strict=True))


def test_bfloat16_rounds_results_where_nothing_better_is_there(engines: Any, tensors: Any) -> None:
    """What is lost is half a unit in bfloat16's last place of each result, 2**-8 of it at most; sums stay float32."""
    results, work, engine = train(engines, tensors, "reference", "bfloat16")
    assert set(work) == {("MXFP8/MXFP8", "bfloat16")}
    assert engine.gradient_products()["layers"] == {"bfloat16, results bfloat16": 1}
    bias = tensors[0].bias.detach().double()
    for got, (exact, size), offset in zip(results, definition(tensors), (bias, 0.0, 0.0), strict=True):
        assert got.dtype == torch.float32
        product = exact - offset
        allowed = product.abs() * 2.0**-8 + size * BOUND
        assert bool(((got.double() - exact).abs() <= allowed).all())
        assert float(((got.double() - exact).abs() / size).max()) > BOUND, "else it was not rounded at all"


def test_an_unquantised_operand_is_multiplied_in_float32(engines: Any, tensors: Any) -> None:
    """It is not exact in bfloat16, whatever was asked for."""
    wide = WideBackend()
    pairs = {"forward": "MXFP8/FP16", "dgrad": "FP16/MXFP8", "wgrad": "MXFP8/MXFP8"}
    (y, dx, _), work, _ = train(engines, tensors, wide, "bfloat16", pairs)
    assert wide.products == 1
    assert {dtype for (fmt, dtype) in work if fmt != "MXFP8/MXFP8"} == {"float32"}
    layer, x, dy = tensors
    w = layer.weight.detach()
    torch.testing.assert_close(y, x @ fake_quantize(w, "MXFP8", scale_rule="rceil").T + layer.bias.detach())
    torch.testing.assert_close(dx, fake_quantize(dy, "MXFP8", scale_rule="rceil") @ w)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_in_sixteen_bits_are_left_alone(engines: Any, tensors: Any, dtype: torch.dtype) -> None:
    layer, x, dy = tensors
    wide = WideBackend()
    results, work, _ = train(engines, (layer.to(dtype), x.to(dtype), dy.to(dtype)), wide, "auto")
    assert wide.products == 0 and {name for _, name in work} == {str(dtype).removeprefix("torch.")}
    assert all(t.dtype == dtype for t in results)


def test_autocast_chooses_its_own_dtype(engines: Any, tensors: Any) -> None:
    layer, x, dy = tensors
    wide = WideBackend()
    engines(policy("MXFP8"), {"policy": nn.ModuleDict({"up": layer})}, wide)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    y.backward(dy.bfloat16())
    assert y.dtype == torch.bfloat16 and wide.products == 0


@pytest.mark.parametrize("backend", ["cpu", "wide"])
@pytest.mark.parametrize("exponent", [-140, -120, -60, 60])
def test_extreme_scales_lose_no_more_than_the_smallest_normal_number(
    engines: Any, tensors: Any, backend: str, exponent: int
) -> None:
    """Operands, products and sums below 2**-126 may count as zero; nothing else may change."""
    layer, x, dy = tensors
    dy = dy * 1e3 * 2.0**exponent
    made = WideBackend() if backend == "wide" else get_backend(backend)
    _, dx, dw = train(engines, (layer, x, dy), made, "auto")[0]
    _, (exact_dx, size_dx), (exact_dw, size_dw) = definition((layer, x, dy))
    w, rows = layer.weight.detach().abs().double(), x.abs().double()
    for got, exact, size, others in (
        (dx, exact_dx, size_dx, w.sum(0, keepdim=True) + w.shape[0]),
        (dw, exact_dw, size_dw, rows.sum(0, keepdim=True) + rows.shape[0]),
    ):
        allowed = size * BOUND + 2.0**-126 * 1.1 * others
        assert bool(((got.double() - exact).abs() <= allowed).all())


def test_a_block_with_nan_reaches_the_same_results(engines: Any, tensors: Any) -> None:
    layer, x, dy = tensors
    x[3, 40] = float("nan")
    dy[7, 2] = float("inf")
    got, _, _ = train(engines, (layer, x, dy), "cpu", "auto")
    exact, _, _ = train(engines, (layer, x, dy), "cpu", "float32")
    for a, b in zip(got, exact, strict=True):
        assert torch.equal(a.isnan(), b.isnan()) and not bool(a.isnan().all())


def test_a_choice_that_is_none_is_refused() -> None:
    with pytest.raises(PolicyError, match=r"gradient_product_dtype='bf16' is not a choice.*bfloat16"):
        MXConfig(gradient_product_dtype="bf16")
