"""The native product: close to the exact one for every pair, shape and value, at every level."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from mx_cpu.native_backend import BOUND, NativeBackend
from mx_cpu.reference import ReferenceBackend
from mx_plugin import formats
from mx_plugin.errors import FormatError, PluginError
from mx_plugin.formats import MXTensor, format_names
from mx_plugin.interfaces import BoundLinear

PAIRS = list(itertools.product(format_names(), ("FP16", *format_names())))
ROUNDING = {torch.float32: 0.0, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
"""Half a unit in the last place of the output, relative; float32's is inside the bound."""

pytestmark = pytest.mark.usefixtures("level")


@pytest.fixture
def backend(level: str) -> Iterator[NativeBackend]:
    made = NativeBackend()
    yield made
    made.close()


def spread(*shape: int) -> torch.Tensor:
    """Numbers over several binades, so that blocks differ in their scales."""
    return torch.randn(shape) * torch.exp2(torch.randint(-5, 6, shape).float())


def check(
    backend: NativeBackend,
    x: torch.Tensor,
    packed: MXTensor,
    activations: str,
    bias: torch.Tensor | None = None,
    scale_rule: str = "floor",
) -> torch.Tensor:
    """Multiply and compare with the float64 product of the dequantised operands; returns y."""
    y = backend.linear(x, backend.load_weight(packed), bias, activations, scale_rule=scale_rule)
    assert y.shape == (*x.shape[:-1], packed.shape[0]) and y.dtype == x.dtype
    a = x.float()
    if activations != "FP16":
        a = formats.quantize(x, activations, scale_rule=scale_rule).dequantize(torch.float32)
    w, a = packed.dequantize(torch.float32).double(), a.double()
    exact, size = F.linear(a, w), F.linear(a.abs(), w.abs())
    if bias is not None:
        exact, size = exact + bias.double(), size + bias.double().abs()
    tolerance = BOUND * size + ROUNDING[x.dtype] * exact.abs() + 2.0**-126
    # Where sum |x||w| leaves the dtype's range, a partial sum may too: nothing is claimed there.
    overflows = size > torch.finfo(x.dtype).max / 2
    assert ((y.double() - exact).abs() <= tolerance)[exact.isfinite() & ~overflows].all()
    assert torch.equal(y.isnan() & ~overflows, exact.isnan())
    return y


@pytest.mark.parametrize(("weights", "activations"), PAIRS, ids=["/".join(pair) for pair in PAIRS])
def test_every_pair_is_close_to_the_exact_product(backend: NativeBackend, weights: str, activations: str) -> None:
    for out, inner, rows in ((24, 64, 1), (7, 172, 3), (33, 5, 2), (50, 1000, 9)):
        packed = formats.quantize(spread(out, inner), weights)
        for dtype in ROUNDING:
            check(backend, spread(rows, inner).to(dtype), packed, activations, torch.randn(out))


@pytest.mark.parametrize("rows", [*range(1, 14), 57, 70], ids=str)
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_every_number_of_rows_is_close_to_the_exact_product(
    backend: NativeBackend, rows: int, dtype: torch.dtype
) -> None:
    for weights, out, inner in (("MXFP4", 37, 2150), ("MXFP8", 16, 288), ("MXFP6", 35, 1100), ("MXINT8", 37, 2150)):
        packed = formats.quantize(spread(out, inner), weights)
        for activations in ("MXFP8", "MXINT8"):
            check(backend, spread(rows, inner).to(dtype), packed, activations, scale_rule="rceil")


@pytest.mark.parametrize("inner", [1, 31, 32, 33, 63, 64, 95, 96, 97, 127, 128, 129, 255, 1023, 1025])
@pytest.mark.parametrize("weights", format_names())
def test_no_length_reads_past_a_row(backend: NativeBackend, weights: str, inner: int) -> None:
    """Rows follow each other in memory: a neighbour's bytes read as one's own would show."""
    packed = formats.quantize(spread(5, inner) * torch.tensor([1.0, 1e6, 1.0, 1e6, 1.0])[:, None], weights)
    for rows, activations in itertools.product((1, 4, 10), ("MXFP8", "MXINT8")):
        check(backend, spread(rows, inner), packed, activations)


@pytest.mark.parametrize("weights", format_names())
@pytest.mark.parametrize("exponent", [-140, -126, -110, 100, 120])
def test_extreme_weights_and_activations_take_the_exact_path(
    backend: NativeBackend, weights: str, exponent: int
) -> None:
    w, x = spread(12, 96), spread(3, 96)
    w[3] *= 2.0 ** (exponent / 2) * 2.0 ** (exponent / 2)
    check(backend, x, formats.quantize(w, weights), "MXFP8")
    x = x * 2.0 ** (exponent / 2) * 2.0 ** (exponent / 2)
    for activations in ("MXFP8", "FP16", "MXINT8"):
        check(backend, x, formats.quantize(spread(12, 96), weights), activations)


def test_zero_blocks_and_zero_rows_give_zeros(backend: NativeBackend) -> None:
    for weights, activations in PAIRS:
        handle = backend.load_weight(formats.quantize(torch.zeros(8, 96), weights))
        assert not backend.linear(torch.zeros(3, 96), handle, None, activations).any()
        handle = backend.load_weight(formats.quantize(torch.randn(8, 96), weights))
        assert not backend.linear(torch.zeros(3, 96), handle, None, activations).any()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("rows", [1, 3, 70])
@pytest.mark.parametrize("activations", ["MXFP8", "MXINT8"])
def test_a_broken_block_spoils_its_row_and_no_other(
    backend: NativeBackend, value: float, rows: int, activations: str
) -> None:
    w, x = torch.randn(8, 70), torch.randn(rows, 70)
    w[2, 69] = value
    y = check(backend, x, formats.quantize(w, "MXFP4"), activations)
    assert y[:, 2].isnan().all() and not y[:, 3:].isnan().any()
    x[0, 65] = value
    y = check(backend, x, formats.quantize(torch.randn(8, 70), "MXFP4"), activations)
    assert y[0].isnan().all() and not y[1:].isnan().any()


@pytest.mark.parametrize("fmt", ["MXFP8", "MXFP8_E5M2", "MXINT8"])
def test_codes_that_no_cast_makes_are_multiplied_as_they_decode(backend: NativeBackend, fmt: str) -> None:
    codes = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(8, 32)
    packed = MXTensor.from_codes(codes, torch.full((8, 1), 127, dtype=torch.uint8), fmt)
    x = torch.ones(2, 32)
    expected = F.linear(x, packed.dequantize())
    torch.testing.assert_close(backend.linear(x, backend.load_weight(packed), None, "FP16"), expected, equal_nan=True)


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("rows", [1, 5, 20])
def test_one_thread_and_two_make_the_same_bits(backend: NativeBackend, rows: int, dtype: torch.dtype) -> None:
    handle = backend.load_weight(formats.quantize(torch.randn(333, 700), "MXFP4"))
    x = torch.randn(rows, 700).to(dtype)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(backend.linear(x, handle))
    torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_strided_and_empty_inputs_are_taken(backend: NativeBackend) -> None:
    packed = formats.quantize(torch.randn(16, 96), "MXFP4")
    check(backend, torch.randn(96, 5).t(), packed, "MXFP8")
    check(backend, torch.randn(2, 3, 192)[..., ::2], packed, "MXFP8", torch.randn(32)[::2])
    check(backend, torch.randn(96), packed, "MXFP8")
    assert backend.linear(torch.randn(0, 96), backend.load_weight(packed)).shape == (0, 16)
    nothing = backend.load_weight(formats.quantize(torch.randn(16, 0), "MXFP4"))
    assert not backend.linear(torch.randn(3, 0), nothing).any()


@pytest.mark.parametrize(
    "bias",
    [torch.ones(1), torch.ones(7), torch.ones(3, 8), torch.ones(8, dtype=torch.float64)],
    ids=["one", "seven", "matrix", "float64"],
)
def test_a_bias_that_does_not_fit_is_refused_and_nothing_behind_it_is_read(
    backend: NativeBackend, bias: torch.Tensor
) -> None:
    handle = backend.load_weight(formats.quantize(torch.randn(8, 64), "MXFP8"))
    with pytest.raises(FormatError, match=r"bias is torch\.float(32|64) of shape .*this layer adds \(8,\)"):
        backend.linear(torch.randn(3, 64), handle, bias)


def test_a_weight_may_be_unloaded_while_another_thread_multiplies(backend: NativeBackend) -> None:
    """What that call reads stays; the next one is refused."""
    x, packed = torch.randn(512, 1024), formats.quantize(torch.randn(1024, 1024), "MXFP4")
    expected = backend.linear(x, backend.load_weight(packed))
    for _ in range(5):
        handle = backend.load_weight(packed)
        bound, found = backend.bind(handle, "MXFP8", "floor"), []

        def multiply(bound: BoundLinear = bound, found: list[torch.Tensor] = found) -> None:
            with contextlib.suppress(PluginError):
                while True:
                    found.append(bound(x, None))

        thread = threading.Thread(target=multiply)
        thread.start()
        while not found:
            time.sleep(0.001)
        backend.unload_weight(handle)
        thread.join()
        assert all(torch.equal(y, expected) for y in found)


def test_a_bound_layer_is_the_same_product(backend: NativeBackend) -> None:
    handle, bias = backend.load_weight(formats.quantize(torch.randn(16, 96), "MXFP6")), torch.randn(16)
    bound, x = backend.bind(handle, "MXFP4", "rceil"), torch.randn(2, 3, 96)
    assert torch.equal(bound(x, bias), backend.linear(x, handle, bias, "MXFP4", scale_rule="rceil"))


def test_autograd_sees_the_product_that_it_asks_for(backend: NativeBackend) -> None:
    packed = formats.quantize(torch.randn(16, 96), "MXFP4")
    x = torch.randn(3, 96, requires_grad=True)
    backend.linear(x, backend.load_weight(packed)).sum().backward()
    torch.testing.assert_close(x.grad, packed.dequantize().sum(0).expand(3, 96))


def test_under_autocast_the_result_has_its_dtype_as_the_reference_has(backend: NativeBackend) -> None:
    packed, x = formats.quantize(torch.randn(16, 96), "MXFP4"), torch.randn(3, 96)
    reference = ReferenceBackend()
    with torch.autocast("cpu", torch.bfloat16):
        ours = backend.linear(x, backend.load_weight(packed))
        theirs = reference.linear(x, reference.load_weight(packed))
    assert ours.dtype == theirs.dtype == torch.bfloat16
    torch.testing.assert_close(ours, theirs, rtol=2.0**-7, atol=1e-2)


def test_the_weight_is_held_packed_and_given_back(backend: NativeBackend) -> None:
    packed = formats.quantize(torch.randn(64, 128), "MXFP4")
    handle = backend.load_weight(packed)
    assert backend.counters().extra["bytes_held"] == packed.nbytes == backend.weight_bytes(packed, torch.float32)
    bound = backend.bind(handle, "MXFP8", "floor")
    backend.unload_weight(handle)
    backend.unload_weight(handle)
    assert backend.counters().extra["bytes_held"] == 0
    with pytest.raises(PluginError, match="closed"):
        bound(torch.randn(1, 128), None)
    with pytest.raises(PluginError, match="closed"):
        backend.linear(torch.randn(1, 128), handle)


def test_calls_and_products_are_counted(backend: NativeBackend) -> None:
    handle = backend.load_weight(formats.quantize(torch.randn(16, 96), "MXFP4"))
    for rows in (1, 100):
        backend.linear(torch.randn(rows, 96), handle)
    counters = backend.counters()
    assert (counters.linear_calls, counters.macs) == (2, 101 * 96 * 16)


def test_what_cannot_be_multiplied_is_refused(backend: NativeBackend) -> None:
    handle = backend.load_weight(formats.quantize(torch.randn(16, 96), "MXFP4"))
    with pytest.raises(FormatError, match="needs 96"):
        backend.linear(torch.randn(3, 95), handle)
    with pytest.raises(FormatError, match="float64"):
        backend.linear(torch.randn(3, 96).double(), handle)
    with pytest.raises(FormatError, match="'MXFP8'"):
        backend.linear(torch.randn(3, 96), handle, None, "MXFP9")
    with pytest.raises(FormatError, match="scale_rule"):
        backend.linear(torch.randn(3, 96), handle, scale_rule="flor")
    with pytest.raises(FormatError, match="blocked along"):
        backend.load_weight(formats.quantize(torch.randn(16, 96), "MXFP4", 0))
    with pytest.raises(PluginError, match="not a weight loaded into this"):
        backend.linear(torch.randn(3, 96), NativeBackend().load_weight(formats.quantize(torch.randn(16, 96), "MXFP4")))
