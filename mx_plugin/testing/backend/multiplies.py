"""Level ``multiplies``: products are those of the decoded operands, within the declared bound."""

from __future__ import annotations

from itertools import product

import torch
from torch.nn.functional import linear

from ... import formats
from ...formats import MXTensor
from ...formats.spec import FP16, SCALE_RULES
from ..check import Level
from ..fault import NotApplicable, demand, demand_form, demand_same
from .trial import BackendTrial, gaussian, with_signed_zeros

LEVEL = Level("backend", "multiplies", "products are those of the decoded operands", BackendTrial)


@LEVEL.check
def every_pair(trial: BackendTrial) -> None:
    """Each declared pair: the float64 product of the decoded operands, within the bound."""
    x = gaussian(5, 64, seed=2)
    trial.need_formats_values()
    for weights in trial.weights:
        packed = trial.weight(weights)
        handle = trial.backend.load_weight(packed)
        for activations in trial.activations:
            y = trial.backend.linear(x, handle, None, activations)
            trial.demand_product(y, x, packed, activations, f"{weights}/{activations}")


@LEVEL.check
def bit_exact(trial: BackendTrial) -> None:
    """A backend that declares no bound has the bits of torch's product of the decoded operands."""
    if not trial.can.exactness.bit_exact:
        raise NotApplicable("it declares a bound, not bit-exactness")
    x = gaussian(5, 64, seed=2)
    for weights in trial.weights:
        packed = trial.weight(weights)
        handle = trial.backend.load_weight(packed)
        for activations in trial.activations:
            expected = linear(formats.fake_quantize(x, activations), packed.dequantize(torch.float32))
            y = trial.backend.linear(x, handle, None, activations)
            demand_same(y, expected, f"{weights}/{activations}", "declare Exactness(bound=...) if sums differ")


@LEVEL.check
def unquantised_activations(trial: BackendTrial) -> None:
    """activations="FP16" leaves x alone."""
    if FP16 not in trial.can.activations:
        raise NotApplicable("it does not declare activations FP16")
    x, packed = gaussian(5, 64, seed=3), trial.weight(trial.pair[0])
    y = trial.backend.linear(x, trial.backend.load_weight(packed), None, FP16)
    trial.demand_product(y, x, packed, FP16, "FP16 activations", remedy="do not cast x")


@LEVEL.check
def bias(trial: BackendTrial) -> None:
    """The bias is added."""
    packed, handle, activations = trial.loaded()
    x, added = gaussian(5, 64, seed=4), 3 * gaussian(24, seed=5)
    y = trial.backend.linear(x, handle, added, activations)
    trial.demand_product(y, x, packed, activations, "with a bias", bias=added, remedy="add the bias to every row")


@LEVEL.check
def scale_rules(trial: BackendTrial) -> None:
    """x is cast by the scale rule that was asked for."""
    if not trial.activations:
        raise NotApplicable("it casts no activations")
    x, packed = gaussian(5, 64, seed=6), trial.weight(trial.pair[0])
    handle = trial.backend.load_weight(packed)
    for fmt in trial.activations:
        for rule in SCALE_RULES[1:]:
            y = trial.backend.linear(x, handle, None, fmt, scale_rule=rule)
            trial.demand_product(y, x, packed, fmt, f"{fmt} by {rule}", scale_rule=rule, remedy="pass scale_rule on")


@LEVEL.check
def leading_dimensions(trial: BackendTrial) -> None:
    """x may have any leading dimensions, none included."""
    packed, handle, activations = trial.loaded()
    for leading in ((), (1,), (2, 3), (2, 1, 3)):
        x = gaussian(*leading, 64, seed=7)
        y = trial.backend.linear(x, handle, None, activations)
        demand_form(y, (*leading, 24), x.dtype, f"x of shape {tuple(x.shape)}")
        trial.demand_product(y, x, packed, activations, f"x of shape {tuple(x.shape)}")


@LEVEL.check
def no_rows(trial: BackendTrial) -> None:
    """No rows in, no rows out."""
    _, handle, activations = trial.loaded()
    for leading in ((0,), (2, 0)):
        y = trial.backend.linear(torch.empty(*leading, 64), handle, torch.ones(24), activations)
        demand_form(y, (*leading, 24), torch.float32, f"x of shape {(*leading, 64)}")


@LEVEL.check
def ragged_features(trial: BackendTrial) -> None:
    """``in`` need not be whole blocks, nor ``out`` a round number."""
    for out, inner in ((24, 40), (1, 5), (7, 1), (3, 100)):
        packed, handle, activations = trial.loaded(out, inner)
        x = gaussian(3, inner, seed=8)
        y = trial.backend.linear(x, handle, None, activations)
        trial.demand_product(y, x, packed, activations, f"a weight of shape ({out}, {inner})")


@LEVEL.check
def strided(trial: BackendTrial) -> None:
    """x may be a transposed or sliced view."""
    packed, handle, activations = trial.loaded()
    for name, x in (("transposed", gaussian(64, 5, seed=9).t()), ("sliced", gaussian(5, 128, seed=9)[:, ::2])):
        y = trial.backend.linear(x, handle, None, activations)
        trial.demand_product(y, x, packed, activations, f"a {name} x", remedy="mind the strides")


@LEVEL.check
def dtypes(trial: BackendTrial) -> None:
    """The result has x's dtype and no more than its rounding."""
    packed, handle, activations = trial.loaded()
    for dtype in (torch.bfloat16, torch.float16):
        x = gaussian(5, 64, seed=10, dtype=dtype)
        y = trial.backend.linear(x, handle, None, activations)
        demand_form(y, (5, 24), dtype, f"x in {dtype}")
        trial.demand_product(y, x, packed, activations, f"x in {dtype}")


@LEVEL.check
def not_a_number(trial: BackendTrial) -> None:
    """A NaN reaches the results that read its block, and no others."""
    (fmt, activations), x, w = trial.pair, gaussian(5, 64, seed=11), gaussian(24, 64)
    trial.need_formats_values()
    x[1, 40], w[3, 8] = float("nan"), float("inf")
    packed = trial.backend.quantize(w, fmt)
    y = trial.backend.linear(x, trial.backend.load_weight(packed), None, activations)
    expected = torch.zeros(5, 24, dtype=torch.bool)
    expected[1], expected[:, 3] = True, True
    demand_same(y.isnan(), expected, "NaN in x[1] and Inf in weight[3]: is NaN")


@LEVEL.check
def extreme_scales(trial: BackendTrial) -> None:
    """Blocks at the ends of E8M0 are multiplied as they are, also beyond what bfloat16 holds."""
    trial.need_formats_values()
    fmt, activations = trial.pair
    form = formats.get_format(fmt)
    for code, size in ((0, 2.0**120), (250 - form.element.emax, 2.0**-120)):
        codes = torch.ones(8, 32, dtype=torch.uint8)
        packed = MXTensor.from_codes(codes, torch.full((8, 1), code, dtype=torch.uint8), fmt)
        x = gaussian(2, 32, seed=12) * size
        y = trial.backend.linear(x, trial.backend.load_weight(packed), None, activations)
        trial.demand_product(y, x, packed, activations, f"a weight with scale code {code}")


@LEVEL.check
def weights_of_others(trial: BackendTrial) -> None:
    """A weight that mx_plugin.quantize packed is taken as well as its own: files hold such."""
    trial.need_formats_values()
    fmt, activations = trial.pair
    packed, x = formats.quantize(gaussian(24, 64), fmt, scale_rule="rceil"), gaussian(5, 64, seed=13)
    y = trial.backend.linear(x, trial.backend.load_weight(packed), None, activations)
    trial.demand_product(y, x, packed, activations, "a weight packed by mx_plugin.quantize")


@LEVEL.check
def bound_linear(trial: BackendTrial) -> None:
    """What bind() returns computes what linear() does, bit for bit."""
    _, handle, first = trial.loaded()
    x, added = gaussian(5, 64, seed=14), gaussian(24, seed=5)
    for activations, rule in product(trial.activations or (first,), SCALE_RULES):
        call = trial.backend.bind(handle, activations, rule)
        for given in (None, added):
            expected = trial.backend.linear(x, handle, given, activations, scale_rule=rule)
            told = f"bind(..., {activations!r}, {rule!r}) {'without' if given is None else 'with'} bias"
            demand_same(call(x, given), expected, told)


@LEVEL.check
def inputs_stay(trial: BackendTrial) -> None:
    """x and bias are not written."""
    _, handle, activations = trial.loaded()
    x, added = with_signed_zeros(5, 64), gaussian(24, seed=5)
    before, added_before = x.clone(), added.clone()
    y = trial.backend.linear(x, handle, added, activations)
    demand_same(x, before, "linear wrote into x: it", "work on a copy")
    demand_same(added, added_before, "linear wrote into bias: it", "work on a copy")
    demand(y.data_ptr() != x.data_ptr(), "linear returned x's own memory")
