"""Linear layers against bf16 ``torch.nn.functional.linear``, the activation cast included."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F

from mx_plugin.interfaces import Backend

from .timing import Effort, Row, Run, medians

SHAPES = ((4096, 4096), (896, 896), (4864, 896))
"""(out, in)."""

ROTATED_BYTES = 64 << 20
"""Weights of one kind, rotated, add up to at least this: decode reads memory, not a cache."""

TARGETS = {
    ("MXFP4/MXFP8", 1): (4.7, 5.2),
    ("MXFP4/MXFP8", 4): (2.7, 3.5),
    ("MXFP4/MXFP8", 16): (1.45, 1.8),
    ("MXFP4/MXFP8", 32): (0.95, 1.1),
    ("MXFP4/MXFP8", 64): (0.95, 1.1),
    ("MXFP4/MXFP8", 128): (0.95, 1.1),
    ("MXFP4/MXFP8", 512): (0.96, 1.0),
    ("MXFP8/MXFP8", 1): (2.8, 3.2),
}
"""(target, stretch) at 4096 x 4096 by pair and rows."""


class Rotation:
    """Calls the next of several equal layers each time."""

    def __init__(self, calls: list[Run]) -> None:
        self.calls = calls
        self.next = 0

    def __call__(self) -> object:
        self.next = (self.next + 1) % len(self.calls)
        return self.calls[self.next]()


@torch.no_grad()
def linear_rows(
    backend: Backend, effort: Effort, pairs: tuple[str, ...], rows: tuple[int, ...], read_rate: float
) -> Iterator[Row]:
    """Every shape, pair and number of rows; ``read_rate``: bytes a second of a streaming read, for M = 1."""
    for out, inner in SHAPES:
        weights = [torch.randn(out, inner).bfloat16() for _ in range(max(1, -(-ROTATED_BYTES // (2 * out * inner))))]
        packed, handles = {}, {}
        for fmt in dict.fromkeys(pair.split("/")[0] for pair in pairs):
            first = backend.quantize(weights[0], fmt, scale_rule="rceil")
            copies = -(-ROTATED_BYTES // first.nbytes)
            packed[fmt] = [first, *(backend.quantize(weights[i % len(weights)], fmt) for i in range(1, copies))]
            handles[fmt] = [backend.load_weight(p) for p in packed[fmt]]
        for count in rows:
            x = torch.randn(count, inner).bfloat16()
            runs: dict[str, Run] = {"bf16": Rotation([partial(F.linear, x, w) for w in weights])}
            for pair in pairs:
                fmt, activations = pair.split("/")
                bound = [backend.bind(handle, activations, "rceil") for handle in handles[fmt]]
                runs[pair] = Rotation([partial(call, x, None) for call in bound])
            seconds = medians(runs, effort)
            for what, median in seconds.items():
                target = stretch = None
                if (out, inner) == SHAPES[0]:
                    target, stretch = TARGETS.get((what, count), (None, None))
                size = weights[0].nbytes if what == "bf16" else packed[what.split("/")[0]][0].nbytes
                share = f"{size / median / read_rate:.2f} of the read bandwidth" if count == 1 else ""
                ratio = seconds["bf16"] / median
                yield Row("linear", f"{out}x{inner} M={count}", what, median, ratio, target, stretch, share)
        for some in handles.values():
            for handle in some:
                backend.unload_weight(handle)
