"""The reference backend: what its linear computes, and how it refuses what it cannot."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

import mx_plugin
from mx_cpu.reference import ReferenceBackend
from mx_plugin.errors import FormatError, PluginError
from mx_plugin.formats import MXTensor, format_names
from mx_plugin.interfaces import Backend

PAIRS = list(itertools.product(format_names(), ("FP16", *format_names())))
ROUNDING = {torch.float32: 0.0, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
"""Half a unit in the last place of the output, relative; float32's is inside the 1e-6."""


@pytest.fixture
def backend() -> Backend:
    return ReferenceBackend()


def weight(out: int, inner: int, fmt: str = "MXFP4", dtype: torch.dtype = torch.float32) -> MXTensor:
    return mx_plugin.quantize(torch.randn(out, inner).to(dtype), fmt)


def exact_product(x: torch.Tensor, packed: MXTensor, activations: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(y, sum |x||w|) in float64 from the dequantised operands."""
    a = x if activations == "FP16" else mx_plugin.quantize(x, activations).dequantize(torch.float32)
    a, w = a.double(), packed.dequantize(torch.float32).double()
    return F.linear(a, w), F.linear(a.abs(), w.abs())


# ---------------------------------------------------------------------------- what is computed


@pytest.mark.parametrize(("weights", "activations"), PAIRS, ids=["/".join(pair) for pair in PAIRS])
@pytest.mark.parametrize("inner", [64, 172, 5], ids=["whole_blocks", "ragged", "less_than_a_block"])
def test_linear_is_the_product_of_the_dequantised_operands(
    backend: Backend, weights: str, activations: str, inner: int
) -> None:
    packed, x = weight(24, inner, weights), torch.randn(7, inner)
    y = backend.linear(x, backend.load_weight(packed), None, activations)
    exact, bound = exact_product(x, packed, activations)
    assert y.dtype == torch.float32
    assert ((y.double() - exact).abs() <= 1e-6 * bound).all()


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_the_result_has_the_dtype_of_x_and_only_its_rounding(backend: Backend, dtype: torch.dtype) -> None:
    packed, x = weight(48, 172, "MXFP8", dtype), torch.randn(3, 5, 172).to(dtype)
    y = backend.linear(x, backend.load_weight(packed))
    exact, bound = exact_product(x, packed, "MXFP8")
    assert y.dtype == dtype
    assert ((y.double() - exact).abs() <= 1e-6 * bound + ROUNDING[dtype] * exact.abs()).all()


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_x_of_another_dtype_than_the_weight_is_multiplied_exactly_too(backend: Backend, dtype: torch.dtype) -> None:
    packed, x = weight(16, 96, "MXFP6", torch.bfloat16), torch.randn(4, 96).to(dtype)
    y = backend.linear(x, backend.load_weight(packed))
    exact, bound = exact_product(x, packed, "MXFP8")
    assert y.dtype == dtype
    assert ((y.double() - exact).abs() <= 1e-6 * bound + ROUNDING[dtype] * exact.abs()).all()


def test_the_bias_is_added(backend: Backend) -> None:
    packed, x, bias = weight(8, 64), torch.randn(3, 64), torch.randn(8)
    handle = backend.load_weight(packed)
    torch.testing.assert_close(backend.linear(x, handle, bias), backend.linear(x, handle) + bias)


@pytest.mark.parametrize("leading", [(), (1,), (2, 3), (2, 1, 3, 2)], ids=str)
def test_any_leading_dimensions_are_kept(backend: Backend, leading: tuple[int, ...]) -> None:
    handle, x = backend.load_weight(weight(8, 40)), torch.randn(*leading, 40)
    y = backend.linear(x, handle)
    assert y.shape == (*leading, 8)
    torch.testing.assert_close(y.reshape(-1, 8), backend.linear(x.reshape(-1, 40), handle))


@pytest.mark.parametrize("shape", [(0, 40), (2, 0, 40)], ids=str)
def test_no_rows_in_gives_no_rows_out(backend: Backend, shape: tuple[int, ...]) -> None:
    y = backend.linear(torch.empty(shape), backend.load_weight(weight(8, 40)), torch.ones(8))
    assert y.shape == (*shape[:-1], 8)


def test_strided_x_is_taken(backend: Backend) -> None:
    handle, x = backend.load_weight(weight(8, 64)), torch.randn(64, 6).t()
    torch.testing.assert_close(backend.linear(x, handle), backend.linear(x.contiguous(), handle))


def test_a_block_with_nan_in_the_weight_reaches_the_outputs_that_read_it(backend: Backend) -> None:
    w = torch.randn(4, 64)
    w[1, 40] = float("nan")
    y = backend.linear(torch.randn(3, 64), backend.load_weight(mx_plugin.quantize(w, "MXFP4")))
    assert y.isnan().any(0).tolist() == [False, True, False, False]


@pytest.mark.parametrize("scale_rule", ["floor", "rceil", "even"])
def test_x_is_cast_by_the_scale_rule_that_was_asked_for(backend: Backend, scale_rule: str) -> None:
    packed, x = weight(8, 64), torch.randn(5, 64)
    handle = backend.load_weight(packed)
    cast = mx_plugin.fake_quantize(x, "MXFP4", scale_rule=scale_rule)
    assert torch.equal(
        backend.linear(x, handle, None, "MXFP4", scale_rule=scale_rule), F.linear(cast, packed.dequantize())
    )


@pytest.mark.parametrize("activations", ["FP16", "MXFP8", "MXINT8"])
def test_a_bound_linear_is_linear(backend: Backend, activations: str) -> None:
    handle, x, bias = backend.load_weight(weight(8, 64)), torch.randn(5, 64), torch.randn(8)
    bound = backend.bind(handle, activations, "rceil")
    assert torch.equal(bound(x, bias), backend.linear(x, handle, bias, activations, scale_rule="rceil"))
    assert torch.equal(bound(x, None), backend.linear(x, handle, None, activations, scale_rule="rceil"))


def test_under_autocast_the_result_is_what_torch_would_return(backend: Backend) -> None:
    packed, x = weight(8, 64), torch.randn(5, 64)
    handle = backend.load_weight(packed)
    with torch.autocast("cpu", torch.bfloat16):
        y = backend.linear(x, handle, torch.ones(8))
        expected = F.linear(mx_plugin.fake_quantize(x, "MXFP8"), packed.dequantize(), torch.ones(8))
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, expected)


def test_values_that_the_narrow_dtype_cannot_hold_are_multiplied_exactly(backend: Backend) -> None:
    elements = torch.full((1, 32), 1, dtype=torch.uint8)  # E4M3 code 1 is 2**-9
    scales = torch.zeros(1, 1, dtype=torch.uint8)  # 2**-127: the values are 2**-136, below bfloat16's least
    packed = MXTensor.from_codes(elements, scales, "MXFP8", -1, torch.bfloat16)
    handle = backend.load_weight(packed)
    assert backend.weight_bytes(packed, torch.bfloat16) == 32 * 4
    x = torch.full((1, 32), 2.0**100, dtype=torch.bfloat16)
    assert backend.linear(x, handle, None, "FP16").item() == 32 * 2.0**-36
    with torch.autocast("cpu", torch.bfloat16):
        assert backend.linear(x.float(), handle, None, "FP16").item() == 32 * 2.0**-36


def test_float16_weights_that_round_up_past_its_largest_value_stay_finite(backend: Backend) -> None:
    packed = mx_plugin.quantize(torch.full((1, 32), 65504.0, dtype=torch.float16), "MXFP8", scale_rule="rceil")
    y = backend.linear(torch.full((1, 32), 2.0**-16), backend.load_weight(packed), None, "FP16")
    assert y.item() == 32.0


def test_casts_are_those_of_the_core(backend: Backend) -> None:
    x = torch.randn(6, 70)
    assert backend.quantize(x, "MXFP6", 0, scale_rule="even").equal(
        mx_plugin.quantize(x, "MXFP6", 0, scale_rule="even")
    )
    out = torch.empty_like(x)
    assert backend.fake_quantize(x, "MXINT8", 0, out=out) is out
    assert torch.equal(out, mx_plugin.fake_quantize(x, "MXINT8", 0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_on_a_gpu_casts_have_the_same_bits_and_every_pair_stays_within_bounds(backend: Backend) -> None:
    for weights, activations in PAIRS:
        packed, x = weight(24, 172, weights), torch.randn(7, 172)
        on_gpu = backend.quantize(packed.dequantize().cuda(), weights)
        assert on_gpu.to("cpu").equal(mx_plugin.quantize(packed.dequantize(), weights))
        y = backend.linear(x.cuda(), backend.load_weight(on_gpu), torch.ones(24).cuda(), activations)
        exact, bound = exact_product(x, packed, activations)
        assert y.is_cuda
        assert ((y.cpu().double() - exact - 1).abs() <= 1e-6 * (bound + 1)).all(), (weights, activations)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_x_on_another_device_than_the_weight_is_refused(backend: Backend) -> None:
    with pytest.raises(PluginError, match=r"x is on cuda:0, the weight on cpu"):
        backend.linear(torch.randn(3, 64).cuda(), backend.load_weight(weight(8, 64)))


# ---------------------------------------------------------------------------- what is refused


def test_a_wrong_last_dimension_is_named_with_the_right_one(backend: Backend) -> None:
    with pytest.raises(FormatError, match=r"\(3, 65\).*65.*\(8, 64\) needs 64"):
        backend.linear(torch.randn(3, 65), backend.load_weight(weight(8, 64)))


def test_an_unknown_activation_format_names_the_nearest(backend: Backend) -> None:
    with pytest.raises(FormatError, match=r"'MXPF8'.*did you mean 'MXFP8'"):
        backend.linear(torch.randn(3, 64), backend.load_weight(weight(8, 64)), None, "MXPF8")


def test_an_unknown_scale_rule_names_the_nearest(backend: Backend) -> None:
    with pytest.raises(FormatError, match=r"'flor'.*did you mean 'floor'"):
        backend.bind(backend.load_weight(weight(8, 64)), "MXFP8", "flor")


@pytest.mark.parametrize("activations", ["FP16", "MXFP8"])
def test_integers_are_refused(backend: Backend, activations: str) -> None:
    with pytest.raises(FormatError, match="int64"):
        backend.linear(torch.ones(3, 64, dtype=torch.int64), backend.load_weight(weight(8, 64)), None, activations)


def test_a_weight_blocked_along_out_is_refused(backend: Backend) -> None:
    with pytest.raises(FormatError, match=r"\(8, 64\) is blocked along dimension 0 \(out\).*dim=-1"):
        backend.load_weight(mx_plugin.quantize(torch.randn(8, 64), "MXFP4", dim=0))


def test_a_weight_that_is_no_matrix_is_refused(backend: Backend) -> None:
    with pytest.raises(FormatError, match=r"\(out, in\); this one has \(2, 8, 64\)"):
        backend.load_weight(mx_plugin.quantize(torch.randn(2, 8, 64), "MXFP4"))


def test_a_closed_handle_is_refused_also_by_what_was_bound_to_it(backend: Backend) -> None:
    handle, x = backend.load_weight(weight(8, 64)), torch.randn(3, 64)
    bound = backend.bind(handle, "MXFP8", "floor")
    bound(x, None)
    backend.unload_weight(handle)
    backend.unload_weight(handle)
    for call in (lambda: backend.linear(x, handle), lambda: bound(x, None)):
        with pytest.raises(PluginError, match="closed"):
            call()


def test_a_handle_of_another_backend_is_refused(backend: Backend) -> None:
    for handle in (ReferenceBackend().load_weight(weight(8, 64)), 7, None):
        with pytest.raises(PluginError, match="not a weight loaded into this ReferenceBackend"):
            backend.linear(torch.randn(3, 64), handle)


def test_closing_frees_every_weight_and_may_be_repeated(backend: Backend) -> None:
    handle = backend.load_weight(weight(8, 64))
    backend.close()
    backend.close()
    assert backend.counters().extra["bytes_held"] == 0
    with pytest.raises(PluginError, match="closed"):
        backend.linear(torch.randn(3, 64), handle)
    with pytest.raises(PluginError, match=r"closed.*make a new one"):
        backend.load_weight(weight(8, 64))


# ---------------------------------------------------------------------------- what is counted


def test_counters_tell_calls_macs_and_bytes(backend: Backend) -> None:
    handle, other = backend.load_weight(weight(8, 64)), backend.load_weight(weight(4, 32, dtype=torch.bfloat16))
    backend.linear(torch.randn(2, 3, 64), handle)
    backend.bind(handle, "FP16", "floor")(torch.randn(5, 64), None)
    before = backend.counters()
    assert (before.linear_calls, before.macs, before.weights_loaded) == (2, 11 * 64 * 8, 2)
    assert before.weight_bytes == 8 * 64 * 4 + 4 * 32 * 2
    assert before.extra == {"weights_held": 2.0, "bytes_held": 8 * 64 * 4 + 4 * 32 * 2.0}
    backend.unload_weight(other)
    assert backend.counters().extra == {"weights_held": 1.0, "bytes_held": 8 * 64 * 4.0}
    assert before.extra["weights_held"] == 2.0, "a snapshot does not change afterwards"


def test_weights_that_nobody_holds_are_freed(backend: Backend) -> None:
    backend.load_weight(weight(8, 64))
    assert backend.counters().extra == {"weights_held": 0.0, "bytes_held": 0.0}


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_weight_bytes_are_those_of_the_decoded_copy(backend: Backend, dtype: torch.dtype) -> None:
    packed = weight(8, 64, dtype=dtype)
    backend.load_weight(packed)
    assert backend.weight_bytes(packed, dtype) == backend.counters().weight_bytes == 8 * 64 * dtype.itemsize


def test_capabilities_claim_every_format_pair_and_no_error(backend: Backend) -> None:
    can = backend.capabilities
    assert set(can.formats) == set(format_names())
    assert set(can.activations) == {"FP16", *format_names()}
    assert can.exactness.bit_exact
    assert can.fake_quantize
