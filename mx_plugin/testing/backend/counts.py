"""Level ``counts``: counters grow by what was executed."""

from __future__ import annotations

from dataclasses import asdict, replace

from ...interfaces import Counters
from ..check import Level
from ..fault import Fault, demand
from .trial import BackendTrial, gaussian

LEVEL = Level("backend", "counts", "counters grow by what was executed", BackendTrial)


def _counters(trial: BackendTrial) -> Counters:
    found = trial.backend.counters()
    if not isinstance(found, Counters):
        raise Fault(f"counters() returned a {type(found).__name__}, not Counters")
    return replace(found)


@LEVEL.check
def calls_and_macs(trial: BackendTrial) -> None:
    """linear_calls and macs grow by each call and its multiplications, bound or not."""
    _, handle, activations = trial.loaded()
    before = _counters(trial)
    trial.backend.linear(gaussian(2, 3, 64), handle, None, activations)
    trial.backend.bind(handle, activations, "floor")(gaussian(5, 64), None)
    after = _counters(trial)
    calls, macs, due = after.linear_calls - before.linear_calls, after.macs - before.macs, 11 * 64 * 24
    demand(calls == 2, f"linear_calls grew by {calls} in two calls", "count each call once, those of bind too")
    demand(macs == due, f"macs grew by {macs}; 11 rows of (24, 64) are {due}", "count rows x in x out, unpadded")


@LEVEL.check
def weights(trial: BackendTrial) -> None:
    """weights_loaded and weight_bytes grow by each weight that is loaded."""
    before = _counters(trial)
    trial.loaded()
    trial.loaded(8, 32)
    after = _counters(trial)
    loaded, size = after.weights_loaded - before.weights_loaded, after.weight_bytes - before.weight_bytes
    demand(loaded == 2, f"weights_loaded grew by {loaded} when two weights were loaded")
    demand(size > 0, f"weight_bytes grew by {size} when two weights were loaded", "count the bytes that are held")


@LEVEL.check
def a_snapshot_stays(trial: BackendTrial) -> None:
    """What counters() returned does not change afterwards."""
    _, handle, activations = trial.loaded()
    taken = trial.backend.counters()
    before = asdict(taken)
    trial.backend.linear(gaussian(2, 64), handle, None, activations)
    trial.loaded()
    demand(asdict(taken) == before, f"counters() were {before}, and became {asdict(taken)}", "return a copy")


@LEVEL.check
def bytes_of_a_call(trial: BackendTrial) -> None:
    """weight_bytes() is a number of bytes: what one call reads of the weight."""
    packed, _, _ = trial.loaded()
    size = trial.backend.weight_bytes(packed, packed.dtype)
    right = isinstance(size, int) and size > 0
    demand(right, f"weight_bytes of a weight of {packed.nbytes} packed bytes is {size!r}", "return bytes, an int")
