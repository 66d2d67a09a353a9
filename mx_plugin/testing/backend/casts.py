"""Level ``casts``: quantize gives the bits that the specification, and independent libraries, give."""

from __future__ import annotations

import torch

from ... import formats
from ...formats import MXTensor, StochasticKey
from ..check import Level
from ..fault import Fault, demand, demand_same
from ..golden_file import GoldenBlocks, golden
from .trial import BackendTrial, unsaturated, with_signed_zeros

LEVEL = Level("backend", "casts", "quantize gives the specification's bits", BackendTrial)

KEY = StochasticKey(seed=1, step=2, stream=3, call=4)


def same_as_golden(trial: BackendTrial, group: str, remedy: str) -> None:
    """Raise a Fault at the first golden vector of that group that the backend casts to other bits."""
    for vectors in golden_of(trial, group):
        packed = trial.backend.quantize(vectors.x.clone(), vectors.format, scale_rule=vectors.scale_rule)
        demand_same_packed(packed, expected(vectors), _told(vectors), remedy, vectors.x)


def golden_of(trial: BackendTrial, group: str = "") -> list[GoldenBlocks]:
    """Golden vectors of the declared formats; of one group, or of all."""
    declared = trial.cast_formats
    return [vectors for vectors in golden() if vectors.format in declared and group in ("", vectors.group)]


def expected(vectors: GoldenBlocks) -> MXTensor:
    """The packed tensor that the golden codes stand for."""
    return MXTensor.from_codes(vectors.elements, vectors.scales, vectors.format)


def demand_same_packed(
    got: MXTensor, expected: MXTensor, what: str, remedy: str = "", source: torch.Tensor | None = None
) -> None:
    """Raise a Fault unless both packed tensors have the same form and bits; tells the first value that differs."""
    if not isinstance(got, MXTensor):
        raise Fault(f"{what}: returned a {type(got).__name__}, not an MXTensor")
    for part in ("shape", "dim", "format", "dtype"):
        mine, due = getattr(got, part), getattr(expected, part)
        demand(mine == due, f"{what}: {part} is {mine}, should be {due}", remedy)
    demand_same(got.dequantize(torch.float32), expected.dequantize(torch.float32), what, remedy, source)
    demand_same(got.scale_codes(), expected.scale_codes(), f"{what}: of the scale codes", remedy)
    demand_same(got.element_codes(), expected.element_codes(), f"{what}: of the element codes", remedy)


def _told(vectors: GoldenBlocks) -> str:
    return f"{vectors.format} by {vectors.scale_rule}"


@LEVEL.check
def ordinary(trial: BackendTrial) -> None:
    """Golden vectors: values between the smallest normal element and the largest."""
    same_as_golden(trial, "ordinary", "the scale is 2**(floor(log2(amax)) - emax); elements round to nearest")


@LEVEL.check
def ties(trial: BackendTrial) -> None:
    """Golden vectors: a value halfway between two elements becomes the even one."""
    same_as_golden(trial, "ties", "round to nearest, ties to even")


@LEVEL.check
def beside_ties(trial: BackendTrial) -> None:
    """Golden vectors: float32 values next to a tie become the nearer element."""
    same_as_golden(trial, "beside_ties", "do not round twice: not by way of a narrower dtype")


@LEVEL.check
def saturation(trial: BackendTrial) -> None:
    """Golden vectors: beyond the largest element lies the largest, with the value's sign."""
    same_as_golden(trial, "saturation", "saturate to the largest finite element")


@LEVEL.check
def subnormals(trial: BackendTrial) -> None:
    """Golden vectors: values below the smallest normal element become subnormal ones, or signed zeros."""
    same_as_golden(trial, "subnormals", "subnormal elements are not flushed to zero")


@LEVEL.check
def zeros(trial: BackendTrial) -> None:
    """Golden vectors: a block of zeros has scale code 0, and its zeros keep their signs."""
    same_as_golden(trial, "zeros", "amax 0 has scale code 0")


@LEVEL.check
def smallest_scales(trial: BackendTrial) -> None:
    """Golden vectors: scales are clamped to 2**-127."""
    same_as_golden(trial, "smallest_scales", "clamp the exponent to -127 .. 127, also for float32 subnormals")


@LEVEL.check
def largest_scales(trial: BackendTrial) -> None:
    """Golden vectors: blocks whose largest value is float32's."""
    same_as_golden(trial, "largest_scales", "clamp the exponent to -127 .. 127")


@LEVEL.check
def rceil(trial: BackendTrial) -> None:
    """Golden vectors: scale_rule="rceil" takes the smallest scale at which nothing saturates."""
    same_as_golden(trial, "rule_rceil", "use scale_rule; rceil: the least power of two s with amax / s <= max")


@LEVEL.check
def even(trial: BackendTrial) -> None:
    """Golden vectors: scale_rule="even" rounds amax to the element's mantissa first."""
    same_as_golden(trial, "rule_even", "use scale_rule; even: floor of amax rounded to the element's mantissa")


@LEVEL.check
def not_a_number(trial: BackendTrial) -> None:
    """A block with NaN or an infinity decodes to NaN, and the others are what they are without it."""
    for fmt in trial.cast_formats:
        clean = unsaturated(4, 96, seed=1)
        for odd in (float("nan"), float("inf"), float("-inf")):
            x = clean.clone()
            x[2, 40] = odd
            due = formats.quantize(clean, fmt).dequantize()
            due[2, 32:64] = float("nan")
            values = trial.backend.quantize(x, fmt).dequantize()
            demand_same(values, due, f"{fmt} with {odd} at [2, 40]", "give the block scale code 255")


@LEVEL.check
def dimensions(trial: BackendTrial) -> None:
    """Blocks lie along the dimension that was asked for; a last one that is not whole is cast as if padded."""
    for fmt in trial.cast_formats:
        for shape, dim in (((70, 6), 0), ((3, 40, 2), 1), ((5, 33), -1), ((7,), 0), ((2, 0), 1)):
            x = unsaturated(*shape, seed=2)
            packed = trial.backend.quantize(x, fmt, dim)
            demand_same_packed(packed, formats.quantize(x, fmt, dim), f"{fmt} of shape {shape} along {dim}", source=x)


@LEVEL.check
def strided(trial: BackendTrial) -> None:
    """x may be a transposed or sliced view."""
    fmt = trial.cast_formats[0]
    for name, x in (
        ("transposed", unsaturated(64, 6, seed=3).t()),
        ("sliced", unsaturated(6, 128, seed=3)[:, ::2]),
        ("expanded", unsaturated(1, 64, seed=3).expand(4, 64)),
    ):
        packed = trial.backend.quantize(x, fmt)
        demand_same_packed(packed, formats.quantize(x.contiguous(), fmt), f"{fmt} of a {name} x", "mind the strides")


@LEVEL.check
def dtypes(trial: BackendTrial) -> None:
    """bfloat16 and float16 are cast as their values in float32 are, and the packed tensor remembers the dtype."""
    for fmt in trial.cast_formats:
        for dtype in (torch.bfloat16, torch.float16):
            x = unsaturated(4, 64, seed=4, dtype=dtype)
            demand_same_packed(trial.backend.quantize(x, fmt), formats.quantize(x, fmt), f"{fmt} from {dtype}")


@LEVEL.check
def stochastic(trial: BackendTrial) -> None:
    """Stochastic rounding draws the bits that its key names."""
    x = unsaturated(4, 64, seed=5)
    for fmt in trial.cast_formats:
        for key in (KEY, StochasticKey(1, 2, 4, 4)):
            got = trial.backend.quantize(x, fmt, rounding="stochastic", scale_rule="rceil", key=key)
            due = formats.quantize(x, fmt, rounding="stochastic", scale_rule="rceil", key=key)
            demand_same_packed(got, due, f"{fmt} with {key}", "draw from Philox4x32-10, see mx_plugin.formats.philox")


@LEVEL.check
def a_key_alone_draws_nothing(trial: BackendTrial) -> None:
    """With a key, rounding to nearest is what it is without: the engine names weights so."""
    for fmt in trial.cast_formats:
        for seed in (6, 7):
            x = unsaturated(4, 64, seed=seed)
            got = trial.backend.quantize(x, fmt, key=KEY)
            demand_same_packed(got, formats.quantize(x, fmt), f"{fmt} with a key", "rounding='nearest' draws nothing")


@LEVEL.check
def random_blocks(trial: BackendTrial) -> None:
    """Many random blocks of all sizes: the same bits as mx_plugin.quantize."""
    draw = torch.Generator().manual_seed(8)
    x = torch.randn(64, 96, generator=draw) * torch.exp2(torch.randint(-30, 30, (64, 1), generator=draw))
    for fmt in trial.cast_formats:
        demand_same_packed(trial.backend.quantize(x, fmt), formats.quantize(x, fmt), fmt, source=x)


@LEVEL.check
def decodes(trial: BackendTrial) -> None:
    """dequantize gives the golden values, in the dtype that was asked for, also into ``out``."""
    for vectors in golden_of(trial):
        packed = expected(vectors)
        values = trial.backend.dequantize(packed, torch.float32)
        demand_same(values, vectors.values, f"{_told(vectors)}, group {vectors.group}, decoded")
        narrow = vectors.values.to(torch.bfloat16)
        out = torch.full_like(narrow, 7.0)
        trial.backend.dequantize(packed, torch.bfloat16, out)
        demand_same(out, narrow, f"{_told(vectors)}, group {vectors.group}, decoded into out in bfloat16")


@LEVEL.check
def inputs_stay(trial: BackendTrial) -> None:
    """x is not written."""
    for fmt in trial.cast_formats:
        x = with_signed_zeros(4, 64)
        before = x.clone()
        trial.backend.quantize(x, fmt)
        demand_same(x, before, f"quantize to {fmt} wrote into x: it", "work on a copy")
