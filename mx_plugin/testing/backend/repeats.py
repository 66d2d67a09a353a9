"""Level ``repeats``: the same operands give the same bits, whatever else happens."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch

from ...interfaces import Backend
from ..check import Level
from ..fault import NotApplicable, demand_same
from .trial import BackendTrial, gaussian

LEVEL = Level("backend", "repeats", "the same operands give the same bits", BackendTrial)


@LEVEL.check
def products(trial: BackendTrial) -> None:
    """The same product, computed again and again."""
    _, handle, activations = trial.loaded()
    x = gaussian(5, 64, seed=2)
    first = trial.backend.linear(x, handle, None, activations).clone()
    for _ in range(10):
        again = trial.backend.linear(x, handle, None, activations)
        demand_same(again, first, "the same product again", "use no order of additions that changes, and no clock")


@LEVEL.check
def casts(trial: BackendTrial) -> None:
    """The same cast, computed again and again."""
    if not trial.can.fake_quantize:
        raise NotApplicable("it declares fake_quantize=False")
    fmt, x = trial.cast_formats[0], gaussian(8, 64, seed=3)
    first = trial.backend.fake_quantize(x, fmt).clone()
    for _ in range(10):
        demand_same(trial.backend.fake_quantize(x, fmt), first, f"the same cast to {fmt} again")


@LEVEL.check
def results_stay(trial: BackendTrial) -> None:
    """A result does not change when the next one is computed: no two share memory."""
    _, handle, activations = trial.loaded()
    call = trial.backend.bind(handle, activations, "floor")
    first = call(gaussian(5, 64, seed=4), None)
    kept = first.clone()
    call(gaussian(5, 64, seed=5), None)
    demand_same(first, kept, "the first result, after the second was computed", "return new memory")


@LEVEL.check
def instances(trial: BackendTrial) -> None:
    """Another instance gives the same bits: ranks and resumed runs agree."""
    x = gaussian(5, 64, seed=6)
    one, other = (_product(each, trial.pair, x) for each in (trial.backend, trial.fresh()))
    demand_same(other, one, "the product of another instance", "depend on nothing but operands and options")


@LEVEL.check
def threads(trial: BackendTrial) -> None:
    """Calls from several threads at once give what each gives alone."""
    _, handle, activations = trial.loaded(48, 96)
    xs = [gaussian(1 + n % 7, 96, seed=20 + n) for n in range(32)]
    call = trial.backend.bind(handle, activations, "floor")
    alone = [call(x, None).clone() for x in xs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda x: call(x, None), xs * 4))
    for number, got in enumerate(together):
        due = alone[number % len(xs)]
        demand_same(got, due, f"call {number}, with three others under way,", "guard what calls share by a lock")


def _product(backend: Backend, pair: tuple[str, str], x: torch.Tensor) -> torch.Tensor:
    handle = backend.load_weight(backend.quantize(gaussian(24, 64, seed=1), pair[0]))
    return backend.linear(x, handle, None, pair[1])
