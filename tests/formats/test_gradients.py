"""``fake_quantize`` as a differentiable function: straight through the rounding."""

from __future__ import annotations

import pytest
import torch

from mx_plugin.errors import FormatError
from mx_plugin.formats import StochasticKey, fake_quantize, format_names, quantize
from mx_plugin.formats.hadamard import transform

KEY = StochasticKey(1, 1, 1)


@pytest.mark.parametrize("name", format_names())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_passes_unchanged_saturated_values_included(name: str, dtype: torch.dtype) -> None:
    x = torch.randn(4, 45, dtype=dtype)
    x[0, 0] = 1.999 * 2.0**6
    x.requires_grad_()
    y = fake_quantize(x, name)
    assert y.requires_grad and torch.equal(y.detach(), quantize(x, name).dequantize())
    grad = torch.randn_like(y)
    y.backward(grad)
    assert torch.equal(x.grad, grad)


def test_the_gradient_along_another_dimension_and_stochastic_is_the_same() -> None:
    x = torch.randn(45, 4, requires_grad=True)
    fake_quantize(x, "MXFP4", 0, rounding="stochastic", key=KEY).square().sum().backward()
    expected = 2 * fake_quantize(x.detach(), "MXFP4", 0, rounding="stochastic", key=KEY)
    assert torch.equal(x.grad, expected)


def test_under_hadamard_the_gradient_is_that_of_the_transform() -> None:
    x = torch.randn(3, 45, requires_grad=True)
    weight = torch.randn(3, 64)
    (straight,) = torch.autograd.grad(fake_quantize(x, "MXFP4", hadamard=KEY), x, weight)
    (linear,) = torch.autograd.grad(transform(x, KEY), x, weight)
    assert torch.equal(straight, linear)


def test_no_graph_is_built_without_need() -> None:
    x = torch.randn(2, 32)
    assert not fake_quantize(x, "MXFP4").requires_grad
    x.requires_grad_()
    with torch.no_grad():
        assert not fake_quantize(x, "MXFP4").requires_grad
    assert not quantize(x, "MXFP4").dequantize().requires_grad


def test_it_works_under_inference_mode_and_afterwards_in_training() -> None:
    x = torch.randn(2, 45)
    with torch.inference_mode():
        seen = [fake_quantize(x, "MXFP8"), quantize(x, "MXFP8").dequantize(), fake_quantize(x, "MXFP8", hadamard=KEY)]
    x.requires_grad_()
    again = [fake_quantize(x, "MXFP8"), quantize(x, "MXFP8").dequantize(), fake_quantize(x, "MXFP8", hadamard=KEY)]
    assert all(torch.equal(a, b) for a, b in zip(seen, again, strict=True))
    again[2].sum().backward()


def test_out_and_a_recorded_gradient_exclude_each_other() -> None:
    x = torch.randn(2, 32, requires_grad=True)
    with pytest.raises(FormatError, match="out="):
        fake_quantize(x, "MXFP4", out=torch.empty(2, 32))
    with torch.no_grad():
        fake_quantize(x, "MXFP4", out=torch.empty(2, 32))
