"""Level ``handles``: weights are loaded side by side, forgotten when they should be, and never confused."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable
from pathlib import Path

from ...errors import MXError
from ...interfaces import Backend
from ..check import Level
from ..fault import Fault, NotApplicable, demand, demand_same
from .trial import BackendTrial, gaussian, refused

LEVEL = Level("backend", "handles", "weights are kept apart, and forgotten when they should be", BackendTrial)

LARGE = (256, 512)
ROUNDS = 48
TIMES = 3
_STATM = Path("/proc/self/statm")


@LEVEL.check
def many(trial: BackendTrial) -> None:
    """Many weights at once: each handle multiplies its own."""
    x, (fmt, activations) = gaussian(3, 64, seed=2), trial.pair
    packed = [trial.weight(fmt, 8, 64, seed=100 + n) for n in range(40)]
    handles = [trial.backend.load_weight(each) for each in packed]
    alone = [trial.backend.linear(x, handle, None, activations).clone() for handle in handles]
    trial.need_formats_values()
    for number in (*range(39, -1, -1), 17, 3):
        y = trial.backend.linear(x, handles[number], None, activations)
        demand_same(y, alone[number], f"weight {number} of {len(handles)}, asked again", "a handle is of one weight")
        trial.demand_product(y, x, packed[number], activations, f"weight {number} of {len(handles)}")


@LEVEL.check
def after_unload(trial: BackendTrial) -> None:
    """A handle that was unloaded raises, or still multiplies its own weight: never another's."""
    _, handle, activations = trial.loaded()
    x = gaussian(3, 64, seed=3)
    due = trial.backend.linear(x, handle, None, activations).clone()
    trial.backend.unload_weight(handle)
    trial.backend.load_weight(trial.weight(trial.pair[0], seed=4))
    try:
        y = trial.backend.linear(x, handle, None, activations)
    except MXError:
        return
    except Exception as error:
        raise Fault(
            f"linear with an unloaded handle raised {type(error).__name__}: {error}", "raise PluginError"
        ) from error
    demand_same(y, due, "linear with an unloaded handle", "raise mx_plugin.errors.PluginError")


@LEVEL.check
def unload_spares_others(trial: BackendTrial) -> None:
    """Unloading one weight leaves the others as they are."""
    (fmt, activations), x = trial.pair, gaussian(3, 64, seed=5)
    handles = [trial.backend.load_weight(trial.weight(fmt, seed=10 + n)) for n in range(3)]
    due = trial.backend.linear(x, handles[2], None, activations).clone()
    trial.backend.unload_weight(handles[1])
    demand_same(trial.backend.linear(x, handles[2], None, activations), due, "a weight, after another was unloaded")


@LEVEL.check
def memory_is_freed(trial: BackendTrial) -> None:
    """Weights that are loaded, multiplied and unloaded again leave no memory behind."""
    _need_statm()
    _load_and_unload(trial, 8)
    grown, size = _growth(lambda: _load_and_unload(trial, ROUNDS))
    demand(
        grown < size / 2,
        f"{ROUNDS} weights of {size // ROUNDS} bytes in all {size} were loaded and unloaded, and {grown} bytes stay",
        "drop every reference in unload_weight",
    )


@LEVEL.check
def close_frees(trial: BackendTrial) -> None:
    """Weights that are still loaded are freed by close()."""
    _need_statm()
    rounds = 12
    closed: list[Backend] = []
    packed = trial.backend.quantize(gaussian(*LARGE), trial.pair[0])

    def one_round() -> int:
        backend: Backend = trial.fresh()
        handles = [backend.load_weight(packed) for _ in range(4)]
        backend.linear(gaussian(1, LARGE[1]), handles[0], None, trial.pair[1])
        size = 4 * packed.nbytes
        backend.close()
        closed.append(backend)
        return size

    one_round()
    grown, size = _growth(lambda: sum(one_round() for _ in range(rounds)))
    demand(grown < size / 2, f"closing {rounds} backends with {size} bytes of weights left {grown} bytes")


@LEVEL.check
def strangers(trial: BackendTrial) -> None:
    """What load_weight of this backend did not return is refused."""
    _, _, activations = trial.loaded()
    for stranger in (None, 7, "handle"):
        refused(
            lambda stranger=stranger: trial.backend.linear(gaussian(3, 64), stranger, None, activations),
            f"linear with {stranger!r} for a handle",
            "raise mx_plugin.errors.PluginError",
        )


@LEVEL.check
def closes_twice(trial: BackendTrial) -> None:
    """close() may be called again."""
    trial.loaded()
    for time in ("close()", "close(), the second time,"):
        try:
            trial.backend.close()
        except Exception as error:
            raise Fault(f"{time} raised {type(error).__name__}: {error}", "close must be idempotent") from error


@LEVEL.check
def closed_loads_nothing(trial: BackendTrial) -> None:
    """After close(), load_weight raises."""
    packed, _, _ = trial.loaded()
    trial.backend.close()
    refused(
        lambda: trial.backend.load_weight(packed), "load_weight after close()", "raise mx_plugin.errors.PluginError"
    )


def _load_and_unload(trial: BackendTrial, rounds: int) -> int:
    """Bytes of all the packed weights."""
    fmt, activations = trial.pair
    w, x, size = gaussian(*LARGE), gaussian(1, LARGE[1]), 0
    for _ in range(rounds):
        packed = trial.backend.quantize(w, fmt)
        size += packed.nbytes
        handle = trial.backend.load_weight(packed)
        trial.backend.linear(x, handle, None, activations)
        trial.backend.unload_weight(handle)
        del handle, packed
    return size


def _need_statm() -> None:
    if not _STATM.exists():
        raise NotApplicable("this system has no /proc/self/statm to read memory from")


def _growth(work: Callable[[], int]) -> tuple[int, int]:
    """Bytes by which the process grew, and those that ``work()`` says it handled; the least growth of several times.

    What leaks grows every time. Once in a while a process grows for reasons of its own: a library's, a thread's.
    """
    found = []
    for _ in range(TIMES):
        before = _resident_bytes()
        size = work()
        found.append((_resident_bytes() - before, size))
        if found[-1][0] < size / 2:
            break
    return min(found)


def _resident_bytes() -> int:
    """Memory of this process, without what the C library has free and keeps for later (pages between small blocks)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; others keep little
    if trim is not None:
        trim(0)
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
