"""NaN, infinities, zeros, subnormals and the ends of float32."""

from __future__ import annotations

import pytest
import torch

from mx_plugin.formats import MXTensor, fake_quantize, format_names, get_format, quantize

pytestmark = pytest.mark.parametrize("name", format_names())
FLOAT32_MAX = torch.finfo(torch.float32).max


def decoded(x: torch.Tensor, name: str, **options: str) -> torch.Tensor:
    """Both routes, checked to agree."""
    slow, fast = quantize(x, name, **options).dequantize(), fake_quantize(x, name, **options)
    torch.testing.assert_close(fast, slow, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(torch.signbit(fast), torch.signbit(slow)) or fast.isnan().any()
    return fast


@pytest.mark.parametrize("bad", [float("nan"), -float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("rule", ["floor", "rceil", "even"])
def test_a_block_with_nan_or_infinity_decodes_to_nan(name: str, rule: str, bad: float) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x = torch.ones(4, 96, dtype=dtype)
        x[1, 40] = bad
        packed = quantize(x, name, scale_rule=rule)
        assert packed.scale_codes()[1].tolist() == [packed.scale_codes()[0, 0], 255, packed.scale_codes()[0, 0]]
        y = decoded(x, name, scale_rule=rule)
        assert y[1, 32:64].isnan().all()
        y[1, 32:64] = 1
        assert torch.equal(y, torch.ones_like(y))


def test_a_nan_of_any_payload_is_seen(name: str) -> None:
    payloads = torch.tensor([0x7F800001, 0x7FFFFFFF, -1, -0x7FFFFF], dtype=torch.int32).view(torch.float32)
    for length in (1, 7, 32):
        for payload in payloads:
            x = torch.zeros(3, length)
            x[:, -1] = payload
            assert quantize(x, name).scale_codes().eq(255).all()
            assert fake_quantize(x, name).isnan().all()


def test_a_block_of_zeros_has_scale_code_zero_and_keeps_its_signs(name: str) -> None:
    x = torch.zeros(64)
    x[::2] = -0.0
    assert quantize(x, name).scale_codes().tolist() == [0, 0]
    y = decoded(x, name)
    assert not y.any()
    assert torch.signbit(y).tolist() == ([False] * 64 if name == "MXINT8" else [True, False] * 32)


def test_values_that_round_to_zero_keep_their_sign_except_in_int8(name: str) -> None:
    x = torch.tensor([1.0, -1e-12, 1e-12, -0.0])
    y = decoded(x, name)
    assert y[1:].tolist() == [0, 0, 0]
    negative = name != "MXINT8"
    assert torch.signbit(y).tolist() == [False, negative, False, negative]


def test_subnormal_inputs_are_cast_exactly(name: str) -> None:
    least = get_format(name).element
    quantum = 2.0 ** (-127 + least.emin - least.mantissa_bits)
    x = torch.arange(-64, 64).to(torch.float32) * 2.0**-149
    expected = (torch.round(x.double() / quantum) * quantum).clamp(-least.max * 2.0**-127, least.max * 2.0**-127)
    assert torch.equal(decoded(x, name).double(), expected)


def test_flushing_subnormals_spoils_neither_zeros_nor_ordinary_blocks(name: str) -> None:
    x = torch.randn(4, 64)
    x[1] = 0.0
    expected = quantize(x, name)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormals")
    try:
        flushed, values = quantize(x, name), fake_quantize(x, name)
    finally:
        torch.set_flush_denormal(False)
    assert flushed.equal(expected)
    assert torch.equal(values, expected.dequantize())


def test_the_largest_float32_saturates_under_floor(name: str) -> None:
    x = torch.tensor([FLOAT32_MAX, -FLOAT32_MAX, 1.0])
    element = get_format(name).element
    top = element.max * 2.0 ** (127 - element.emax)
    assert decoded(x, name).tolist() == [top, -top, 0.0]


def test_what_rceil_rounds_up_beyond_float32_is_infinite_on_both_routes(name: str) -> None:
    x = torch.tensor([FLOAT32_MAX])
    packed = quantize(x, name, scale_rule="rceil")
    element = get_format(name).element
    exact = MXTensor.from_codes(packed.element_codes(), torch.tensor([127], dtype=torch.uint8), name).dequantize()
    value = exact.double().item() * 2.0 ** (packed.scale_codes().item() - 127)
    assert value in (2.0**128, element.max * 2.0**127)
    assert decoded(x, name, scale_rule="rceil").item() == torch.tensor(value).item()


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (2, 0, 3)])
def test_empty_tensors_stay_empty(name: str, shape: tuple[int, ...]) -> None:
    x = torch.empty(shape)
    for dim in range(len(shape)):
        packed = quantize(x, name, dim)
        assert packed.dequantize().shape == shape == fake_quantize(x, name, dim).shape
        assert packed.element_codes().shape == shape
        assert packed.nbytes == packed.scale_codes().numel() == 0
