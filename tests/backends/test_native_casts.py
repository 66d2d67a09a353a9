"""The native casts have the core's bits, at every level, whatever is cast."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mx_cpu.library import library
from mx_cpu.native_backend import NativeBackend
from mx_plugin import formats
from mx_plugin.errors import FormatError
from mx_plugin.formats import MXTensor, StochasticKey, format_names
from mx_plugin.formats.spec import SCALE_RULES

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
KEY, TURN = StochasticKey(11, 3, 5, 2), StochasticKey(7, 3, 9, 1)

pytestmark = pytest.mark.usefixtures("level")


@pytest.fixture
def backend(level: str) -> Iterator[NativeBackend]:
    made = NativeBackend()
    yield made
    made.close()


def awkward(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Numbers of every size: zeros of both signs, subnormals, NaN, infinities, the largest and smallest."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator) * torch.exp2(torch.randint(-20, 20, shape, generator=generator).float())
    special = torch.tensor([0.0, -0.0, 1e-45, -3e-42, 1e-38, 3.4e38, -3.4e38, 2.0**127, 2.0**-127, 6.0, -448.0])
    where = torch.rand(shape, generator=generator) < 0.1
    x[where] = special[torch.randint(0, len(special), (int(where.sum()),), generator=generator)]
    if x.numel() > 200:
        flat = x.view(-1)
        flat[x.numel() // 3], flat[x.numel() // 2] = float("nan"), -float("inf")
        flat[:64] *= 2.0**-120
        flat[64:96] = 0.0
    return x.to(dtype)


def bits(x: torch.Tensor) -> torch.Tensor:
    """Bit patterns, every NaN alike."""
    kind = torch.int32 if x.dtype == torch.float32 else torch.int16
    return torch.where(x.isnan(), torch.full_like(x, float("nan")), x).view(kind)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))


def rounding(key: StochasticKey | None) -> str:
    return "nearest" if key is None else "stochastic"


SHAPES = [(3, 64), (2, 1200), (5, 37), (35, 3, 70), (33, 128), (2, 1), (1, 1), (32, 80)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("fmt", format_names())
@pytest.mark.parametrize("key", [None, KEY], ids=rounding)
def test_quantize_makes_the_same_packed_bytes_along_every_dimension(
    backend: NativeBackend, fmt: str, dtype: torch.dtype, key: StochasticKey | None
) -> None:
    for seed, shape in enumerate(SHAPES):
        x = awkward(shape, dtype, seed)
        for dim in range(len(shape)):
            rule = SCALE_RULES[(seed + dim) % len(SCALE_RULES)]
            options = {"rounding": rounding(key), "scale_rule": rule, "key": key}
            assert backend.quantize(x, fmt, dim, **options).equal(formats.quantize(x, fmt, dim, **options)), (
                shape,
                dim,
            )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("fmt", format_names())
@pytest.mark.parametrize("hadamard", [None, TURN], ids=["plain", "hadamard"])
@pytest.mark.parametrize("key", [None, KEY], ids=rounding)
def test_fake_quantize_makes_the_same_bits_along_every_dimension(
    backend: NativeBackend, fmt: str, dtype: torch.dtype, key: StochasticKey | None, hadamard: StochasticKey | None
) -> None:
    for seed, shape in enumerate(SHAPES):
        x = awkward(shape, dtype, seed)
        for dim in range(len(shape)):
            rule = SCALE_RULES[(seed + dim) % len(SCALE_RULES)]
            options = {"rounding": rounding(key), "scale_rule": rule, "key": key, "hadamard": hadamard}
            ours = backend.fake_quantize(x, fmt, dim, **options)
            assert same_bits(ours, formats.fake_quantize(x, fmt, dim, **options)), (shape, dim)


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_tensor_in_any_format_by_any_rule_has_the_same_bits(backend: NativeBackend, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 70), min_size=1, max_size=3), label="shape"))
    dtype = data.draw(st.sampled_from(DTYPES), label="dtype")
    words = st.integers(-(2**31), 2**31 - 1)
    pattern = torch.tensor(data.draw(st.lists(words, min_size=1, max_size=40), label="bits"), dtype=torch.int32)
    count = torch.Size(shape).numel()
    x = pattern.repeat(-(-count // len(pattern)))[:count].view(torch.float32).view(shape).to(dtype)
    fmt, rule = data.draw(st.sampled_from(format_names())), data.draw(st.sampled_from(SCALE_RULES))
    dim = data.draw(st.integers(-len(shape), len(shape) - 1), label="dim")
    key = data.draw(st.sampled_from([None, KEY]))
    options = {"rounding": rounding(key), "scale_rule": rule, "key": key}
    assert backend.quantize(x, fmt, dim, **options).equal(formats.quantize(x, fmt, dim, **options))
    ours = backend.fake_quantize(x, fmt, dim, **options)
    assert same_bits(ours, formats.fake_quantize(x, fmt, dim, **options))


@pytest.mark.parametrize("fmt", format_names())
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_code_under_every_scale_decodes_to_the_same_bits(
    backend: NativeBackend, fmt: str, dtype: torch.dtype
) -> None:
    count = 1 << formats.get_format(fmt).element.bits
    codes = torch.arange(max(count, 32), dtype=torch.int32).remainder(count).to(torch.uint8).repeat(256, 1)
    scales = torch.arange(256, dtype=torch.uint8)[:, None].expand(256, codes.shape[1] // 32).contiguous()
    packed = MXTensor.from_codes(codes, scales, fmt)
    out = torch.empty(packed.shape, dtype=dtype)
    assert same_bits(backend._casts.dequantize(packed, out), packed.dequantize(dtype))


@pytest.mark.parametrize("fmt", format_names())
@pytest.mark.parametrize("length", [64, 160, 45])
def test_ordinary_weights_decode_to_bfloat16_by_the_short_way(backend: NativeBackend, fmt: str, length: int) -> None:
    packed = formats.quantize(torch.randn(37, length), fmt)
    assert not packed.has_extreme_scales
    out = torch.empty(packed.shape, dtype=torch.bfloat16)
    assert same_bits(backend._casts.dequantize(packed, out, ordinary=True), packed.dequantize(torch.bfloat16))


def test_one_thread_and_two_make_the_same_bits(backend: NativeBackend) -> None:
    x = torch.randn(257, 1056)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        key = {"rounding": "stochastic", "key": KEY}
        results.append([backend.fake_quantize(x, "MXFP4", dim, **key) for dim in (0, 1)])
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("dim", [0, 1])
def test_results_too_large_for_the_caches_have_the_same_bits(backend: NativeBackend, dim: int) -> None:
    x = torch.randn(1600, 1600)
    assert torch.equal(backend.fake_quantize(x, "MXFP8", dim), formats.fake_quantize(x, "MXFP8", dim))
    half = x.bfloat16().repeat(2, 1)
    assert torch.equal(backend.fake_quantize(half, "MXFP4", dim), formats.fake_quantize(half, "MXFP4", dim))


def test_strided_and_empty_tensors_are_taken(backend: NativeBackend) -> None:
    x = torch.randn(70, 96)
    for view in (x.t(), x[:, ::2], x[3:], x.view(70, 3, 32).permute(2, 0, 1), x.new_empty(0, 32), x.new_empty(4, 0)):
        for dim in range(view.dim()):
            assert backend.quantize(view, "MXFP6", dim).equal(formats.quantize(view, "MXFP6", dim))
            ours = backend.fake_quantize(view, "MXFP6", dim)
            assert torch.equal(ours, formats.fake_quantize(view, "MXFP6", dim))


@pytest.mark.parametrize("out_dtype", DTYPES, ids=str)
def test_the_callers_buffer_is_written_in_its_dtype_and_returned(
    backend: NativeBackend, out_dtype: torch.dtype
) -> None:
    x = torch.randn(33, 65)
    out, expected = torch.empty(33, 65, dtype=out_dtype), torch.empty(33, 65, dtype=out_dtype)
    assert backend.fake_quantize(x, "MXFP8", out=out) is out
    assert same_bits(out, formats.fake_quantize(x, "MXFP8", out=expected))


def test_a_tensor_may_be_its_own_buffer_and_a_strided_buffer_is_filled(backend: NativeBackend) -> None:
    x = torch.randn(33, 65)
    expected = formats.fake_quantize(x, "MXFP8", 0)
    strided = torch.empty(65, 33).t()
    assert torch.equal(backend.fake_quantize(x, "MXFP8", 0, out=strided), expected)
    assert backend.fake_quantize(x, "MXFP8", 0, out=x) is x
    assert torch.equal(x, expected)


def test_gradients_pass_straight_through(backend: NativeBackend) -> None:
    x = torch.randn(4, 64, requires_grad=True)
    backend.fake_quantize(x, "MXFP4").sum().backward()
    assert torch.equal(x.grad, torch.ones(4, 64))


def test_flushing_subnormals_in_torch_does_not_change_the_kernels(backend: NativeBackend) -> None:
    x = torch.full((4, 64), 1e-40)
    expected = formats.quantize(x, "MXFP8")
    try:
        torch.set_flush_denormal(True)
        assert backend.quantize(x, "MXFP8").equal(expected)
    finally:
        torch.set_flush_denormal(False)


def test_what_cannot_be_cast_is_refused_as_the_core_does(backend: NativeBackend) -> None:
    x = torch.randn(4, 64)
    for wrong in (
        lambda: backend.quantize(x.double(), "MXFP4"),
        lambda: backend.quantize(x, "MXFP5"),
        lambda: backend.quantize(x, "MXFP4", 2),
        lambda: backend.quantize(x, "MXFP4", rounding="stochastic"),
        lambda: backend.fake_quantize(x, "MXFP4", out=torch.empty(4, 32)),
    ):
        with pytest.raises(FormatError):
            wrong()


def test_the_level_in_force_is_the_one_asked_for(level: str) -> None:
    assert library().level == level


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("transposed", [(False, False), (True, True), (False, True), (True, False)])
@pytest.mark.parametrize("source", DTYPES)
def test_a_bound_cast_writes_the_same_bits_in_every_layout(
    backend: NativeBackend, source: torch.dtype, transposed: tuple[bool, bool], dim: int
) -> None:
    for shape in ((1, 1), (64, 96), (37, 70), (3, 129), (300, 40)):
        x = awkward(shape, source)
        x = x.t().contiguous().t() if transposed[0] else x
        for key, turn in ((None, None), (KEY, None), (None, TURN), (KEY, TURN)):
            bound = backend.bind_cast("MXFP6", dim, rounding=rounding(key), scale_rule="rceil")
            options = {"rounding": rounding(key), "scale_rule": "rceil", "key": key, "hadamard": turn}
            expected = formats.fake_quantize(x, "MXFP6", dim, out=None, **options).float()
            for result in DTYPES:
                out = torch.empty(expected.shape, dtype=result)
                out = out.t().contiguous().t() if transposed[1] else out
                y = bound(x, out, key, turn)
                assert y is out
                wide = formats.fake_quantize(x.float(), "MXFP6", dim, **options)
                assert same_bits(y, wide.to(result))
            assert same_bits(bound(x, None, key, turn).float(), expected)


def test_a_large_bound_cast_is_transposed_past_the_caches(backend: NativeBackend) -> None:
    x = awkward((2048, 2112), torch.bfloat16)
    bound = backend.bind_cast("MXFP8", 0, scale_rule="rceil")
    out = torch.empty(2112, 2048, dtype=torch.bfloat16)
    threads = torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        bound(x, out.fill_(7).t(), None, None)
        assert same_bits(out.t(), bound(x, torch.empty_like(x), None, None))
    torch.set_num_threads(threads)


def test_a_bound_cast_serves_threads_at_once(backend: NativeBackend) -> None:
    bound = backend.bind_cast("MXFP8", 0, scale_rule="rceil")
    sources = [awkward((40 + i, 96), torch.bfloat16, seed=i) for i in range(16)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda x: bound(x, torch.empty_like(x), None, None), sources))
    for x, y in zip(sources, results, strict=True):
        assert same_bits(y, formats.fake_quantize(x, "MXFP8", 0, scale_rule="rceil"))


def test_a_bound_cast_takes_what_the_kernels_do_not(backend: NativeBackend) -> None:
    """Tensors of other ranks, empty ones, and ones whose gradient is recorded."""
    bound = backend.bind_cast("MXFP8", -1)
    for shape in ((5,), (2, 3, 40), (0, 8), (8, 0)):
        x = awkward(shape, torch.float32)
        assert same_bits(bound(x, torch.empty_like(x), None, None), formats.fake_quantize(x, "MXFP8", -1))
    leaf = torch.randn(4, 40, requires_grad=True)
    bound(leaf, None, None, None).sum().backward()
    assert torch.equal(leaf.grad, torch.ones(4, 40))
    with pytest.raises(FormatError, match="leave out"):
        bound(leaf, torch.empty(4, 40), None, None)
    with pytest.raises(FormatError, match="shape"):
        bound(leaf.detach(), torch.empty(4, 41), None, None)
    with pytest.raises(FormatError, match="key"):
        backend.bind_cast("MXFP8", -1, rounding="stochastic")(leaf.detach(), torch.empty(4, 40), None, None)
