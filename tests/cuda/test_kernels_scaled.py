"""Products by the card's own MX units: operands are handed over as cuBLAS wants them, and only where they are right.

torch multiplies blocks of 32 on Blackwell cards alone. Without one a model stands in for ``scaled_mm``: it reads scales
by the formula of cuBLAS's manual, in loops, and multiplies in float64. With one the real thing is asked too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn import functional

from mx_cuda import scaled
from mx_cuda.backend import MANY, CudaBackend
from mx_plugin import formats
from mx_plugin.formats import MXTensor


def by_formula(flat: torch.Tensor, rows: int, blocks: int) -> torch.Tensor:
    """Scales (rows, blocks) out of cuBLAS's tiles of 128 x 4, one by one."""
    across = -(-blocks // 4)
    found = torch.empty(rows, blocks, dtype=torch.uint8)
    for row in range(rows):
        for block in range(blocks):
            tile = (row // 128) * across + block // 4
            within = (row % 32) * 16 + (row % 128 // 32) * 4 + block % 4
            found[row, block] = flat[tile * 512 + within]
    return found


def model_of_scaled_mm(
    a: torch.Tensor, b: torch.Tensor, scale_a: torch.Tensor, recipe_a: Any, scale_b: torch.Tensor, recipe_b: Any,
    *, swizzle_a: Any, swizzle_b: Any, bias: torch.Tensor | None, output_dtype: torch.dtype,
) -> torch.Tensor:  # fmt: skip
    """What torch's documentation says of it, for one scale for each 32 elements."""
    assert recipe_a == recipe_b == functional.ScalingType.BlockWise1x32
    assert swizzle_a == swizzle_b == functional.SwizzleType.SWIZZLE_32_4_4
    assert a.is_contiguous() and b.t().is_contiguous(), "the one layout that every card with MX units takes"
    assert a.dtype == b.dtype == torch.float8_e4m3fn
    assert scale_a.dtype == scale_b.dtype == torch.float8_e8m0fnu
    values = []
    for elements, flat in ((a, scale_a), (b.t(), scale_b)):
        rows, length = elements.shape
        scales = by_formula(flat.view(torch.uint8).cpu(), rows, length // 32).double()
        values.append(elements.cpu().double() * torch.exp2(scales - 127).repeat_interleave(32, 1))
    y = values[0] @ values[1].t()
    return (y if bias is None else y + bias.cpu().double()).to(output_dtype).to(a.device)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[CudaBackend]:
    """On a card with MX units as it is, elsewhere with the model in their place."""
    if not (torch.cuda.is_available() and scaled.serves(torch.device("cuda"))):
        monkeypatch.setattr(functional, "scaled_mm", model_of_scaled_mm)
        monkeypatch.setattr(scaled, "serves", lambda device: True)
    made = CudaBackend()
    yield made
    made.close()


@pytest.mark.parametrize(("rows", "blocks"), [(1, 1), (128, 4), (129, 5), (300, 11)])
def test_scales_lie_where_the_formula_says(rows: int, blocks: int) -> None:
    scales = torch.randint(0, 256, (rows, blocks), dtype=torch.uint8)
    flat = scaled.swizzled(scales)
    assert len(flat) == -(-rows // 128) * -(-blocks // 4) * 512
    assert torch.equal(by_formula(flat, rows, blocks), scales)
    assert flat.sum(dtype=torch.int64) == scales.sum(dtype=torch.int64), "what fills up is zero"


@pytest.mark.parametrize("rule", ["floor", "rceil"])
def test_many_rows_of_mxfp8_are_the_cards(
    backend: CudaBackend, device: str, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = torch.randn(48, 192)
    w[:, 32:64] *= 2.0**-20
    packed = formats.quantize(w, "MXFP8").to(device)
    handle = backend.load_weight(packed)
    x = torch.randn(MANY + 2, 192, device=device).bfloat16()
    bias = torch.randn(48, device=device).bfloat16()
    a, b = formats.fake_quantize(x, "MXFP8", scale_rule=rule).double(), packed.dequantize(torch.float32).double()
    monkeypatch.setattr(backend, "_decoded", None)  # nobody else multiplies
    y = backend.linear(x.view(2, -1, 192), handle, bias, "MXFP8", scale_rule=rule)
    assert y.dtype == torch.bfloat16 and y.shape == (2, MANY // 2 + 1, 48)
    size = a.abs() @ b.abs().t() + bias.double().abs()
    assert ((y.view(-1, 48).double() - (a @ b.t() + bias.double())).abs() <= 2.0**-8 * size).all()
    assert handle.nbytes == packed.nbytes + 512 * 2, "the second copy of the scales is counted"


@pytest.mark.parametrize(
    ("fmt", "activations", "shape", "rows", "dtype"),
    [
        ("MXFP4", "MXFP8", (48, 64), MANY + 1, torch.bfloat16),
        ("MXFP8", "MXFP4", (48, 64), MANY + 1, torch.bfloat16),
        ("MXFP8", "MXFP8", (40, 64), MANY + 1, torch.bfloat16),
        ("MXFP8", "MXFP8", (48, 60), MANY + 1, torch.bfloat16),
        ("MXFP8", "MXFP8", (48, 64), MANY + 1, torch.float32),
        ("MXFP8", "MXFP8", (48, 64), 2, torch.bfloat16),
    ],
    ids=["weights", "activations", "columns", "blocks", "float32", "few rows"],
)
def test_what_they_do_not_take_goes_the_other_ways(
    backend: CudaBackend, device: str, fmt: str, activations: str, shape: tuple[int, int], rows: int,
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def refused(*_: object) -> None:
        raise AssertionError("the card's units were asked")

    monkeypatch.setattr(scaled, "product", refused)
    packed: MXTensor = formats.quantize(torch.randn(shape), fmt).to(device)
    x = torch.randn(rows, shape[1], device=device, dtype=dtype)
    assert backend.linear(x, backend.load_weight(packed), None, activations).shape == (rows, shape[0])


def test_gradients_go_the_other_way(backend: CudaBackend, device: str) -> None:
    handle = backend.load_weight(formats.quantize(torch.randn(48, 64), "MXFP8").to(device))
    x = torch.randn(MANY + 1, 64, device=device, dtype=torch.bfloat16, requires_grad=True)
    backend.linear(x, handle).sum().backward()
    assert x.grad is not None


def test_a_wrong_product_is_found_before_it_is_used(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setattr(functional, "scaled_mm", model_of_scaled_mm)
    assert scaled._fault(torch.device(device)) == ""
    right = scaled.swizzled
    monkeypatch.setattr(scaled, "swizzled", lambda scales: right(scales.roll(1, 0)))
    assert "a product is off by" in scaled._fault(torch.device(device))
    monkeypatch.setattr(functional, "scaled_mm", None)
    assert "TypeError" in scaled._fault(torch.device(device))
