"""Level ``training_casts``: fake_quantize gives quantize's values, wherever they are wanted."""

from __future__ import annotations

import torch

from ... import formats
from ...formats import StochasticKey
from ...formats.spec import SCALE_RULES
from ..check import Level
from ..fault import demand, demand_form, demand_same
from .casts import KEY, golden_of
from .trial import BackendTrial, gaussian, unsaturated, with_signed_zeros

LEVEL = Level("backend", "training_casts", "fake_quantize gives the values of the packed cast", BackendTrial)


@LEVEL.check
def golden_values(trial: BackendTrial) -> None:
    """Golden vectors of every group: the values that independent libraries give."""
    trial.need_fake_quantize()
    for vectors in golden_of(trial):
        got = trial.backend.fake_quantize(vectors.x.clone(), vectors.format, scale_rule=vectors.scale_rule)
        what = f"{vectors.format} by {vectors.scale_rule}, group {vectors.group}"
        demand_same(got, vectors.values, what, "the same cast as quantize", vectors.x)


@LEVEL.check
def not_a_number(trial: BackendTrial) -> None:
    """A block with NaN or an infinity becomes NaN, and no other does."""
    trial.need_fake_quantize()
    for fmt in trial.cast_formats:
        x = unsaturated(4, 96, seed=1)
        x[2, 40], x[3, 0] = float("nan"), float("inf")
        due = torch.zeros(4, 96, dtype=torch.bool)
        due[2, 32:64], due[3, :32] = True, True
        got = trial.backend.fake_quantize(x, fmt)
        demand_same(got.isnan(), due, f"{fmt} with NaN at [2, 40] and Inf at [3, 0]: is NaN", "NaN must not be hidden")


@LEVEL.check
def dimensions(trial: BackendTrial) -> None:
    """Along any dimension, whole blocks or not, with every scale rule."""
    trial.need_fake_quantize()
    for fmt in trial.cast_formats:
        for shape, dim in (((70, 6), 0), ((3, 40, 2), 1), ((5, 33), -1), ((7,), 0), ((0, 32), 1)):
            for rule in SCALE_RULES:
                x = unsaturated(*shape, seed=2)
                got = trial.backend.fake_quantize(x, fmt, dim, scale_rule=rule)
                due = formats.fake_quantize(x, fmt, dim, scale_rule=rule)
                demand_same(got, due, f"{fmt} of shape {shape} along {dim} by {rule}", source=x)


@LEVEL.check
def dtypes(trial: BackendTrial) -> None:
    """The result has x's dtype."""
    trial.need_fake_quantize()
    for dtype in (torch.bfloat16, torch.float16):
        x = unsaturated(4, 64, seed=3, dtype=dtype)
        for fmt in trial.cast_formats:
            demand_same(trial.backend.fake_quantize(x, fmt), formats.fake_quantize(x, fmt), f"{fmt} of {dtype}")


@LEVEL.check
def into_out(trial: BackendTrial) -> None:
    """``out`` is filled and returned: of another dtype, and as a transposed view, too."""
    trial.need_fake_quantize()
    fmt, x = trial.cast_formats[0], unsaturated(6, 64, seed=4)
    due = formats.fake_quantize(x, fmt)
    for name, out in (
        ("plain", torch.full_like(x, 7.0)),
        ("bfloat16", torch.full_like(x, 7.0, dtype=torch.bfloat16)),
        ("transposed", torch.full((64, 6), 7.0).t()),
    ):
        given = trial.backend.fake_quantize(x, fmt, out=out)
        demand_same(out, due.to(out.dtype), f"{fmt} into a {name} out", "write the result into out")
        demand(given is out, f"{fmt} into a {name} out returned another tensor", "return out itself")


@LEVEL.check
def strided(trial: BackendTrial) -> None:
    """x may be a transposed or sliced view."""
    trial.need_fake_quantize()
    fmt = trial.cast_formats[0]
    for name, x in (("transposed", unsaturated(64, 6, seed=5).t()), ("sliced", unsaturated(6, 128, seed=5)[:, ::2])):
        due = formats.fake_quantize(x.contiguous(), fmt)
        demand_same(trial.backend.fake_quantize(x, fmt), due, f"{fmt} of a {name} x", "mind the strides")


@LEVEL.check
def stochastic(trial: BackendTrial) -> None:
    """Stochastic rounding draws the bits that its key names, along either dimension."""
    trial.need_fake_quantize()
    x = unsaturated(40, 64, seed=6)
    for fmt in trial.cast_formats:
        for key, dim in ((KEY, -1), (StochasticKey(1, 3, 3, 4), 0)):
            got = trial.backend.fake_quantize(x, fmt, dim, rounding="stochastic", scale_rule="rceil", key=key)
            due = formats.fake_quantize(x, fmt, dim, rounding="stochastic", scale_rule="rceil", key=key)
            demand_same(got, due, f"{fmt} along {dim} with {key}", "draw from Philox4x32-10 by the element's index", x)


@LEVEL.check
def hadamard(trial: BackendTrial) -> None:
    """With ``hadamard`` the blocks are turned first, by the signs that the key names."""
    trial.need_fake_quantize()
    x = gaussian(6, 64, seed=7)
    for fmt in trial.cast_formats:
        got = trial.backend.fake_quantize(x, fmt, hadamard=KEY)
        demand_same(got, formats.fake_quantize(x, fmt, hadamard=KEY), f"{fmt} turned by {KEY}")


@LEVEL.check
def bound_cast(trial: BackendTrial) -> None:
    """What bind_cast() returns computes what fake_quantize() does, with and without ``out``."""
    trial.need_fake_quantize()
    fmt, x = trial.cast_formats[0], unsaturated(64, 64, seed=8)
    for dim, rule, rounding, key in ((-1, "rceil", "nearest", None), (0, "floor", "stochastic", KEY)):
        cast = trial.backend.bind_cast(fmt, dim, rounding=rounding, scale_rule=rule)
        due = formats.fake_quantize(x, fmt, dim, rounding=rounding, scale_rule=rule, key=key)
        for out in (None, torch.full_like(x, 7.0)):
            got = cast(x, out, key, None)
            demand_form(got, x.shape, x.dtype, "what bind_cast returned")
            demand_same(got, due, f"bind_cast({fmt!r}, {dim}, {rounding!r}, {rule!r})", source=x)


@LEVEL.check
def inputs_stay(trial: BackendTrial) -> None:
    """x is not written, nor is it what is returned."""
    trial.need_fake_quantize()
    for fmt in trial.cast_formats:
        x = with_signed_zeros(4, 64)
        before = x.clone()
        got = trial.backend.fake_quantize(x, fmt)
        demand_same(x, before, f"fake_quantize to {fmt} wrote into x: it", "work on a copy")
        demand(got.data_ptr() != x.data_ptr(), f"fake_quantize to {fmt} returned x's own memory", "return a new tensor")
