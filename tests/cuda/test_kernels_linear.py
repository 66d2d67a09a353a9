"""The packed product is within its bound of the exact one, for every pair, number of rows and scale."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from mx_cuda import product
from mx_cuda.backend import BOUND, MANY, CudaBackend
from mx_plugin import formats
from mx_plugin.errors import FormatError, PluginError
from mx_plugin.formats import MXTensor, format_names
from mx_plugin.formats.spec import FP16


@pytest.fixture
def backend() -> Iterator[CudaBackend]:
    made = CudaBackend()
    yield made
    made.close()


def error(y: torch.Tensor, x: torch.Tensor, packed: MXTensor, activations: str, scale_rule: str = "floor") -> float:
    """Largest |y - q(x) W^T| relative to sum |x||w|, all in float64; where that sum is 0, y must be."""
    a = x if activations == FP16 else formats.fake_quantize(x, activations, scale_rule=scale_rule)
    a, w = a.double(), packed.dequantize(torch.float32).double()
    exact, size = a @ w.t(), a.abs() @ w.abs().t()
    # What is smaller than float32's smallest number is lost to any float32 result.
    return float(((y.double() - exact).abs() / (size + 2.0**-126)).max())


@pytest.mark.parametrize("weights", format_names())
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_every_pair_is_within_the_bound(backend: CudaBackend, device: str, weights: str, rows: int) -> None:
    packed = formats.quantize(torch.randn(40, 100), weights, scale_rule="rceil").to(device)
    handle = backend.load_weight(packed)
    x = torch.randn(rows, 100, device=device)
    for activations in (*format_names(), FP16) if rows == 3 else ("MXFP8",):
        assert error(backend.linear(x, handle, None, activations), x, packed, activations) <= BOUND, activations


@pytest.mark.parametrize("rows", [1, 4])
def test_extreme_scales_need_no_other_path(backend: CudaBackend, device: str, rows: int) -> None:
    """Weights at 2**-127 and up to 2**127, activations that make up for them, in every combination of a layer."""
    w, x = torch.randn(36, 96), torch.randn(rows, 96)
    w[:12, :32] *= 2.0**-126
    w[12:24, 32:64] *= 2.0**118
    x[:, :32] *= 2.0**110
    x[:, 32:64] *= 2.0**-120
    packed = formats.quantize(w, "MXFP8").to(device)
    assert packed.has_extreme_scales
    y = backend.linear(x.to(device), backend.load_weight(packed), None, "MXFP8")
    assert error(y, x.to(device), packed, "MXFP8") <= BOUND


@pytest.mark.parametrize("rows", [1, 4])
def test_a_broken_block_breaks_its_rows_alone(backend: CudaBackend, device: str, rows: int) -> None:
    w, x = torch.randn(8, 64), torch.randn(rows, 64)
    w[2, 40] = float("inf")
    x[-1, 3] = float("nan")
    packed = formats.quantize(w, "MXFP4").to(device)
    y = backend.linear(x.to(device), backend.load_weight(packed), None, "MXFP8")
    due = torch.zeros(rows, 8, dtype=torch.bool, device=device)
    due[:, 2] = due[-1] = True
    assert torch.equal(y.isnan(), due)


@pytest.mark.parametrize(("rows", "out", "inner"), [(1, 3, 1), (2, 33, 5), (17, 70, 40), (70, 24, 64)])
def test_no_size_need_be_round(backend: CudaBackend, device: str, rows: int, out: int, inner: int) -> None:
    packed = formats.quantize(torch.randn(out, inner), "MXFP6").to(device)
    x = torch.randn(rows, inner, device=device)
    y = backend.linear(x, backend.load_weight(packed), None, "MXFP8")
    assert y.shape == (rows, out)
    assert error(y, x, packed, "MXFP8") <= BOUND


@pytest.mark.parametrize("rows", [1, 3])
def test_a_reduction_is_shared_out_and_summed(backend: CudaBackend, device: str, rows: int) -> None:
    """20 blocks in two parts: the last part is not whole."""
    assert product.shares(20, 1) == (16, 2)
    packed = formats.quantize(torch.randn(16, 20 * 32), "MXFP4").to(device)
    x = torch.randn(rows, 20 * 32, device=device)
    y = backend.linear(x, backend.load_weight(packed), None, "MXFP8")
    assert error(y, x, packed, "MXFP8") <= BOUND


def test_many_rows_of_bfloat16_go_by_a_decoded_weight(backend: CudaBackend, device: str) -> None:
    """The bits of torch's product of the decoded operands."""
    packed = formats.quantize(torch.randn(24, 64), "MXFP4").to(device)
    x = torch.randn(MANY + 1, 64, device=device).bfloat16()
    y = backend.linear(x, backend.load_weight(packed), None, "MXFP8")
    due = torch.nn.functional.linear(formats.fake_quantize(x, "MXFP8"), packed.dequantize(torch.bfloat16))
    assert torch.equal(y, due)


def test_bias_leading_dimensions_and_dtypes(backend: CudaBackend, device: str) -> None:
    packed = formats.quantize(torch.randn(24, 64), "MXFP4").to(device)
    handle = backend.load_weight(packed)
    bias = torch.randn(24, device=device)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x = torch.randn(2, 3, 64, device=device, dtype=dtype)
        y = backend.linear(x, handle, bias.to(dtype), "MXFP8", scale_rule="rceil")
        a, w = formats.fake_quantize(x, "MXFP8", scale_rule="rceil").double(), packed.dequantize(torch.float32).double()
        due = a @ w.t() + bias.to(dtype).double()
        assert y.dtype == dtype and y.shape == (2, 3, 24)
        assert torch.allclose(y.double(), due, rtol=2 * torch.finfo(dtype).eps, atol=1e-5)
    assert backend.linear(torch.empty(2, 0, 64, device=device), handle, bias).shape == (2, 0, 24)


def test_gradients_reach_x(backend: CudaBackend, device: str) -> None:
    packed = formats.quantize(torch.randn(24, 64), "MXFP4").to(device)
    x = torch.randn(3, 64, device=device, requires_grad=True)
    backend.linear(x, backend.load_weight(packed)).sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, packed.dequantize(torch.float32).sum(0).expand(3, 64), atol=1e-5)


def test_mistakes_are_told(backend: CudaBackend, device: str) -> None:
    packed = formats.quantize(torch.randn(24, 64), "MXFP4").to(device)
    handle = backend.load_weight(packed)
    with pytest.raises(FormatError, match="last dimension 32"):
        backend.linear(torch.randn(3, 32, device=device), handle)
    with pytest.raises(FormatError, match="float64"):
        backend.linear(torch.randn(3, 64, device=device).double(), handle)
    with pytest.raises(FormatError, match="scale_rule"):
        backend.bind(handle, "MXFP8", "flor")
    backend.unload_weight(handle)
    with pytest.raises(PluginError, match="closed"):
        backend.linear(torch.randn(3, 64, device=device), handle)
    assert backend.counters().weight_bytes == packed.nbytes
