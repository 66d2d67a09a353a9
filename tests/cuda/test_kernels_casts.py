"""The kernels' casts have the core's bits: every format, rule, dtype, dimension and way to lie in memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import triton
import triton.language as tl

from mx_cuda.backend import CudaBackend
from mx_cuda.kernels.draw import word
from mx_plugin import formats
from mx_plugin.errors import FormatError
from mx_plugin.formats import MXTensor, StochasticKey, format_names
from mx_plugin.formats.philox import philox4x32
from mx_plugin.formats.spec import SCALE_RULES
from tests.cuda.awkward import awkward, same_bits

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
KEY, TURN = StochasticKey(11, 3, 0x95555555, 2), StochasticKey(0xFFFFFFFF, 3, 9, 1)
SHAPES = ((9, 37), (3, 128), (5, 3, 34))
"""A ragged tail; whole blocks; blocks along a middle dimension."""


@pytest.fixture
def backend() -> Iterator[CudaBackend]:
    made = CudaBackend()
    yield made
    made.close()


def rounding(key: StochasticKey | None) -> str:
    return "nearest" if key is None else "stochastic"


@pytest.mark.parametrize("fmt", format_names())
@pytest.mark.parametrize("key", [None, KEY], ids=rounding)
def test_packed_bytes_and_values_are_the_cores(
    backend: CudaBackend, device: str, fmt: str, key: StochasticKey | None
) -> None:
    """Dtypes, rules and dimensions take turns, so that each meets each within the formats."""
    for turn, dtype in enumerate(DTYPES):
        for seed, shape in enumerate(SHAPES):
            x = awkward(shape, dtype, device, seed)
            dim = (seed + turn) % len(shape)
            options = {"rounding": rounding(key), "scale_rule": SCALE_RULES[turn], "key": key}
            where = (dtype, shape, dim, SCALE_RULES[turn])
            assert backend.quantize(x, fmt, dim, **options).equal(formats.quantize(x, fmt, dim, **options)), where
            mine = backend.fake_quantize(x, fmt, dim, **options)
            assert same_bits(mine, formats.fake_quantize(x, fmt, dim, **options)), where


@pytest.mark.parametrize("rule", SCALE_RULES)
def test_scales_are_clamped_at_both_ends(backend: CudaBackend, device: str, rule: str) -> None:
    """Blocks whose largest magnitude is each power of two of float32, and its neighbours."""
    powers = torch.exp2(torch.arange(-149, 128).double()).float()
    amax = torch.cat([powers, powers * 1.75, torch.nextafter(powers, torch.tensor(float("inf")))]).to(device)
    x = amax[:, None] * torch.linspace(-1, 1, 32, device=device)
    x[:, 0] = amax
    for fmt in ("MXFP8", "MXFP4", "MXINT8"):
        assert backend.quantize(x, fmt, scale_rule=rule).equal(formats.quantize(x, fmt, scale_rule=rule)), fmt


@pytest.mark.parametrize("key", [None, KEY], ids=rounding)
@pytest.mark.parametrize("dim", [0, 1])
def test_a_random_hadamard_transform_goes_first(
    backend: CudaBackend, device: str, dim: int, key: StochasticKey | None
) -> None:
    for fmt, dtype in (("MXFP4", torch.bfloat16), ("MXFP8", torch.float32)):
        x = awkward((36, 44), dtype, device)
        options = {"rounding": rounding(key), "scale_rule": "rceil", "key": key, "hadamard": TURN}
        mine = backend.fake_quantize(x, fmt, dim, **options)
        assert same_bits(mine, formats.fake_quantize(x, fmt, dim, **options))


@pytest.mark.parametrize("key", [None, KEY], ids=rounding)
def test_however_tensors_lie_in_memory(backend: CudaBackend, device: str, key: StochasticKey | None) -> None:
    options = {"rounding": rounding(key), "scale_rule": "rceil", "key": key}
    x = awkward((40, 68), torch.bfloat16, device)
    views = {"transposed": x.t(), "strided": x[::2, ::2], "expanded": x[:1].expand(3, 68), "one": x[:1, :1]}
    for name, view in views.items():
        for dim in (0, 1):
            due = formats.fake_quantize(view.contiguous(), "MXFP4", dim, **options)
            assert same_bits(backend.fake_quantize(view, "MXFP4", dim, **options), due), (name, dim)
    cube = awkward((4, 6, 33), torch.float32, device).permute(2, 0, 1)
    assert backend.quantize(cube, "MXFP6", 1, **options).equal(
        formats.quantize(cube.contiguous(), "MXFP6", 1, **options)
    )


def test_a_result_is_written_where_it_is_wanted(backend: CudaBackend, device: str) -> None:
    """Of another dtype, transposed, a slice whose surroundings stay, or in place of x."""
    x = awkward((40, 64), torch.float32, device)
    due = formats.fake_quantize(x, "MXFP8", 0, out=torch.empty(40, 64, dtype=torch.bfloat16, device=device))
    turned = torch.empty(64, 40, dtype=torch.bfloat16, device=device).t()
    assert backend.fake_quantize(x, "MXFP8", 0, out=turned) is turned
    assert same_bits(turned, due)
    room = torch.full((42, 66), 7.0, dtype=torch.bfloat16, device=device)
    backend.fake_quantize(x, "MXFP8", 0, out=room[1:-1, 1:-1])
    assert same_bits(room[1:-1, 1:-1], due)
    room[1:-1, 1:-1] = 7.0
    assert (room == 7.0).all()
    due = formats.fake_quantize(x, "MXFP8")
    assert same_bits(backend.fake_quantize(x, "MXFP8", out=x), due)


def test_memory_that_x_and_out_share_otherwise_is_not_overwritten_too_soon(backend: CudaBackend, device: str) -> None:
    x = awkward((64, 64), torch.float32, device)
    due = formats.fake_quantize(x, "MXFP8", 0).t()
    assert torch.equal(torch.nan_to_num(backend.fake_quantize(x, "MXFP8", 0, out=x).t()), torch.nan_to_num(due))
    square = awkward((64, 64), torch.float32, device, 1)
    due = formats.fake_quantize(square, "MXFP8", 0)
    assert same_bits(backend.fake_quantize(square, "MXFP8", 0, out=square.t()), due)


@triton.jit
def words(out, start, seed, step, stream, last):
    index = tl.zeros([8], tl.int64) + start + tl.arange(0, 8)
    tl.store(out + tl.arange(0, 8), word(index, seed, step, stream, last).to(tl.int64))


def test_draws_are_counted_beyond_32_bits(device: str) -> None:
    """Word numbers of more than 2**34 elements need the counter's second word; no such tensor fits here."""
    start = (5 << 34) + 12
    out = torch.empty(8, dtype=torch.int64, device=device)
    words[(1,)](out, start, 7, -3, 9, 2)
    groups = torch.tensor([start // 4, start // 4 + 1])
    counter = (groups & 0xFFFFFFFF, groups >> 32, torch.full_like(groups, 2**32 - 3), torch.full_like(groups, 2))
    due = torch.stack(philox4x32(counter, (7, 9)), dim=1).view(-1)
    assert torch.equal(out.cpu(), due)


@pytest.mark.parametrize("fmt", format_names())
def test_every_code_decodes_under_every_scale(backend: CudaBackend, device: str, fmt: str) -> None:
    """Codes that no cast makes, too; rows of 37 elements end within a byte where they can."""
    bits = formats.get_format(fmt).element.bits
    codes = torch.arange(37 * 64, dtype=torch.int32).bitwise_and((1 << bits) - 1).to(torch.uint8).view(64, 37)
    scales = torch.arange(128, dtype=torch.int32).mul(2).add(1).to(torch.uint8).view(64, 2)
    scales[0, 0] = 0
    packed = MXTensor.from_codes(codes, scales, fmt).to(device)
    for dtype in DTYPES:
        assert same_bits(backend.dequantize(packed, dtype), packed.dequantize(dtype)), dtype
    turned = torch.empty(37, 64, dtype=torch.bfloat16, device=device).t()
    assert same_bits(backend.dequantize(packed, torch.bfloat16, turned), packed.dequantize(torch.bfloat16))


def test_gradients_are_recorded(backend: CudaBackend, device: str) -> None:
    x = torch.randn(4, 64, device=device, requires_grad=True)
    backend.fake_quantize(x, "MXFP4").sum().backward()
    assert x.grad is not None and torch.equal(x.grad, torch.ones_like(x))


def test_mistakes_are_worded_as_the_core_words_them(backend: CudaBackend, device: str) -> None:
    x = torch.randn(4, 64, device=device)
    for cast, message in (
        (lambda: backend.quantize(x, "MXFP5"), "unknown MX format"),
        (lambda: backend.quantize(x.double(), "MXFP8"), "float64"),
        (lambda: backend.quantize(x, "MXFP8", 2), "out of range"),
        (lambda: backend.fake_quantize(x, "MXFP8", rounding="stochastic"), "needs key"),
        (lambda: backend.fake_quantize(x, "MXFP8", out=x[:2]), "out has shape"),
    ):
        with pytest.raises(FormatError, match=message):
            cast()
