"""The operators have the launchers' results, and their fake implementations tell the truth about them."""

from __future__ import annotations

import pytest
import torch

from mx_cuda import operators
from mx_plugin import formats
from mx_plugin.formats import StochasticKey
from tests.cuda.awkward import same_bits

CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor")
KEY = operators.fields(StochasticKey(1, 2, 0xFFFFFFFF, 4))


@pytest.mark.parametrize("dim", [0, 1])
def test_casts(device: str, dim: int) -> None:
    x = torch.randn(36, 44, device=device)
    drawn = (x, "MXFP4", dim, "stochastic", "rceil", KEY)
    torch.library.opcheck(operators.quantize, drawn, test_utils=CHECKS)
    torch.library.opcheck(operators.fake_quantize, (*drawn, KEY), test_utils=CHECKS)
    due = formats.fake_quantize(x, "MXFP4", dim, scale_rule="rceil")
    assert same_bits(operators.fake_quantize(x, "MXFP4", dim, "nearest", "rceil", None, None), due)


def test_decoding_and_the_product(device: str) -> None:
    packed = formats.quantize(torch.randn(24, 44), "MXFP6").to(device)
    parts = packed.elements, packed.scales, "MXFP6"
    torch.library.opcheck(operators.dequantize, (*parts, 44, torch.bfloat16), test_utils=CHECKS)
    assert same_bits(operators.dequantize(*parts, 44, torch.float32), packed.dequantize())
    x = torch.randn(3, 44, device=device)
    torch.library.opcheck(operators.linear, (x, *parts, "MXFP8", "floor"), test_utils=CHECKS)
