"""Linear layers against bf16 ``torch.nn.functional.linear``, the activation cast included."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F

from mx_plugin import get_backend
from mx_plugin.bench import Bench, Row, Run
from mx_plugin.errors import MXError
from mx_plugin.formats import parse_pair
from mx_plugin.interfaces import Backend, Handle

from .peers import Peer, linear_peers

SHAPES = {"cpu": ((4096, 4096), (896, 896), (4864, 896)), "cuda": ((4096, 4096), (4096, 14336), (896, 896))}
"""(out, in), by kind of device."""

TARGETS: dict[tuple[str, tuple[int, int]], dict[tuple[str, int], tuple[float, float | None]]] = {
    ("cpu", (4096, 4096)): {
        ("MXFP4/MXFP8", 1): (4.7, 5.2),
        ("MXFP4/MXFP8", 4): (2.7, 3.5),
        ("MXFP4/MXFP8", 16): (1.45, 1.8),
        ("MXFP4/MXFP8", 32): (0.95, 1.1),
        ("MXFP4/MXFP8", 64): (0.95, 1.1),
        ("MXFP4/MXFP8", 128): (0.95, 1.1),
        ("MXFP4/MXFP8", 512): (0.96, 1.0),
        ("MXFP8/MXFP8", 1): (2.8, 3.2),
    },
    ("cuda", (4096, 4096)): {("MXFP4/MXFP8", 1): (2.5, None), ("MXFP4/MXFP8", 16): (1.5, None)},
    ("cuda", (4096, 14336)): {("MXFP4/MXFP8", 1): (2.5, None), ("MXFP4/MXFP8", 16): (1.5, None)},
}
"""(target, stretch) by pair and rows, for some shapes on some kinds of device."""

SHARE_PAIR = "MXFP4/MXFP8"
SHARE_TARGETS: dict[tuple[str, tuple[int, int]], tuple[float, float | None]] = {
    ("cpu", (4096, 4096)): (0.85, 0.92),
    ("cuda", (4096, 4096)): (0.6, None),
    ("cuda", (4096, 14336)): (0.6, None),
}
"""Share of the bandwidth that a packed weight is read with, M = 1."""

BASELINE = "bf16"
PEER_ROWS = (1, 4, 16)
"""Peers are made for decode: no other rows, or one that emulates would take all the time there is."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``--pairs``, ``--rows`` and ``--shapes``."""
    parser.add_argument("--pairs", default="MXFP4/MXFP8,MXFP8/MXFP8", help="linear: pairs, separated by commas")
    parser.add_argument("--rows", default="1,4,16,32,64,128,512", help="linear: numbers of activation rows")
    default = ",".join(f"{out}x{size}" for out, size in SHAPES["cpu"])
    parser.add_argument("--shapes", help=f"linear: sizes of layers, out x in (default on a CPU: {default})")


def linear_rows(bench: Bench, shapes: tuple[tuple[int, int], ...] | None = None) -> Iterator[Row]:
    """Every shape (default: those of ``--shapes``), pair and number of rows.

    Raises:
        FormatError: an unknown pair in ``--pairs``.
        MXError: ``--rows`` or ``--shapes`` is not a list of positive numbers.
    """
    if shapes is None:
        written = bench.arguments.shapes
        shapes = SHAPES[_kind(bench)] if written is None else _shapes(written)
    pairs = tuple(str(parse_pair(pair)) for pair in bench.arguments.pairs.split(","))
    counts = _numbers(bench.arguments.rows)
    backend = get_backend(bench.backend)
    try:
        kinds = linear_peers(bench) if set(counts) & set(PEER_ROWS) else []
        for shape in shapes:
            fit = [kind for kind in kinds if kind.takes(*shape)]
            for kind in set(kinds) - set(fit):
                bench.note(f"no row of {kind.name} for {shape[0]}x{shape[1]}, a shape that it does not take")
            yield from _one_shape(bench, backend, shape, pairs, counts, fit)
    finally:
        backend.close()


def _kind(bench: Bench) -> str:
    return torch.device(bench.device).type


def _numbers(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise MXError(f"--rows {text!r} is not a list of positive numbers; write e.g. 1,4,16")
    return numbers


def _shapes(text: str) -> tuple[tuple[int, int], ...]:
    try:
        shapes = [tuple(int(side) for side in part.split("x")) for part in text.split(",")]
    except ValueError:
        shapes = []
    if not shapes or any(len(shape) != 2 or min(shape) < 1 for shape in shapes):
        raise MXError(f"--shapes {text!r} is not a list of sizes out x in; write e.g. 768x288,288x768")
    return tuple((shape[0], shape[1]) for shape in shapes)


class Rotation:
    """Calls the next of several equal layers each time; ``period``: after how many calls it is a layer's turn again."""

    def __init__(self, layers: list[Run]) -> None:
        self.layers = layers
        self.period = len(layers)
        self.next = 0

    def __call__(self) -> object:
        self.next = (self.next + 1) % self.period
        return self.layers[self.next]()


class Layers:
    """Equal layers of one shape in every form that is measured; each form adds up to ``rotated_bytes``.

    ``nbytes`` by name: bytes of one layer's weight, all of which a call with one row reads.
    """

    def __init__(self, bench: Bench, backend: Backend, shape: tuple[int, int], pairs: tuple[str, ...]) -> None:
        self.backend, self.pairs = backend, pairs
        self._rotated = bench.rotated_bytes
        self.first = torch.randn(shape, device=bench.device).bfloat16()
        self.weights = [self.first, *(self.first.clone() for _ in range(self._more(self.first.nbytes)))]
        self.nbytes = {BASELINE: self.first.nbytes}
        self.handles: dict[str, list[Handle]] = {}
        for pair in pairs:
            fmt = pair.split("/")[0]
            packed = backend.quantize(self.first, fmt, scale_rule="rceil")
            self.nbytes[pair] = packed.nbytes
            if fmt not in self.handles:
                copies = [packed, *(copy.deepcopy(packed) for _ in range(self._more(packed.nbytes)))]
                self.handles[fmt] = [backend.load_weight(each) for each in copies]

    def _more(self, nbytes: int) -> int:
        return max(1, -(-self._rotated // nbytes)) - 1

    def baseline(self, x: torch.Tensor) -> dict[str, Run]:
        """bf16, in turn over equal weights."""
        return {BASELINE: Rotation([partial(F.linear, x, w) for w in self.weights])}

    def ours(self, x: torch.Tensor) -> dict[str, Run]:
        """The pairs, on x."""
        runs: dict[str, Run] = {}
        for pair in self.pairs:
            fmt, activations = pair.split("/")
            bound = [self.backend.bind(handle, activations, "rceil") for handle in self.handles[fmt]]
            runs[pair] = Rotation([partial(call, x, None) for call in bound])
        return runs

    def peers(self, x: torch.Tensor, kinds: list[type[Peer]]) -> dict[str, Run]:
        """Other people's layers, on x. One that emulates is not rotated: a cache makes no difference to it."""
        runs: dict[str, Run] = {}
        for kind in kinds:
            peer = kind(self.first)
            self.nbytes[peer.name] = peer.nbytes
            more = 0 if peer.emulates else self._more(peer.nbytes)
            runs[peer.name] = Rotation(
                [partial(each, x) for each in [peer, *(copy.deepcopy(peer) for _ in range(more))]]
            )
        return runs

    def close(self) -> None:
        """Unload all packed weights."""
        for handles in self.handles.values():
            for handle in handles:
                self.backend.unload_weight(handle)


@torch.no_grad()
def _one_shape(
    bench: Bench,
    backend: Backend,
    shape: tuple[int, int],
    pairs: tuple[str, ...],
    counts: tuple[int, ...],
    kinds: list[type[Peer]],
) -> Iterator[Row]:
    layers = Layers(bench, backend, shape, pairs)
    try:
        for count in counts:
            x = torch.randn(count, shape[1], device=bench.device).bfloat16()
            runs = {what: bench.replayed(run) for what, run in (layers.baseline(x) | layers.ours(x)).items()}
            seconds = bench.effort.medians(runs)
            for what, median in seconds.items():
                yield _row(layers, shape, count, what, median, seconds[BASELINE])
            if count == 1:
                yield from _limits(bench, layers, shape, seconds)
            if kinds and count in PEER_ROWS:
                # Apart: a slow peer would leave the others too few rounds. bf16 runs beside them again.
                seconds = bench.effort.medians(layers.baseline(x) | layers.peers(x, kinds), least=3)
                for what in list(seconds)[1:]:
                    yield _row(layers, shape, count, what, seconds[what], seconds[BASELINE])
    finally:
        layers.close()


def _case(shape: tuple[int, int], count: int) -> str:
    return f"{shape[0]}x{shape[1]} M={count}"


def _row(layers: Layers, shape: tuple[int, int], count: int, what: str, median: float, baseline: float) -> Row:
    kind = layers.first.device.type
    target, stretch = TARGETS.get((kind, shape), {}).get((what, count), (None, None))
    note = f"{layers.nbytes[what] / median / 1e9:.1f} GB/s of weight" if count == 1 else ""
    return Row("linear", _case(shape, count), what, median, baseline / median, target, stretch, note=note)


def _limits(bench: Bench, layers: Layers, shape: tuple[int, int], seconds: dict[str, float]) -> Iterator[Row]:
    """What only reading the packed weight would take; and, where a target is set, which share of that was reached."""
    for pair in layers.pairs:
        least = layers.nbytes[pair] / bench.read_bytes_per_s
        what = f"{pair} read limit"
        yield Row("linear", _case(shape, 1), what, least, seconds[BASELINE] / least, note="computed")
        shared = SHARE_TARGETS.get((layers.first.device.type, shape))
        if pair == SHARE_PAIR and shared:
            share, (target, stretch) = least / seconds[pair], shared
            what = f"{pair} share of read limit"
            yield Row("linear", _case(shape, 1), what, seconds[pair], share, target, stretch)
