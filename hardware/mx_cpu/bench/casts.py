"""Casts of a 4096 x 4096 tensor: bytes moved a second, against ``torch.copy_``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from mx_plugin import get_backend
from mx_plugin.bench import Bench, Row, Run
from mx_plugin.formats import StochasticKey, get_format
from mx_plugin.interfaces import Backend

from .peers import cast_peers

SIZE = 4096

TARGETS: dict[str, dict[tuple[str, str], tuple[float, float | None]]] = {
    "cpu": {
        ("float32", "quantize MXFP4"): (0.9, 1.2),
        ("float32", "quantize MXFP8"): (0.9, 1.2),
        ("bfloat16", "quantize MXFP4"): (0.85, 1.0),
        ("float32", "fake_quantize MXFP8"): (1.3, 1.45),
    },
    "cuda": {("bfloat16", "quantize MXFP4"): (0.8, None), ("bfloat16", "quantize MXFP8"): (0.8, None)},
}
"""(target, stretch) by kind of device, and by dtype and what is run."""


def cast_rows(bench: Bench, size: int = SIZE) -> Iterator[Row]:
    """Packing (into fresh memory) and fake quantisation (into a buffer), along the last dimension and the first."""
    backend = get_backend(bench.backend)
    try:
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.randn(size, size, device=bench.device).to(dtype)
            runs, moved = _runs(backend, x)
            runs = {name: bench.replayed(run) for name, run in runs.items()}
            yield from _table(x, bench.effort.medians(runs), moved)
            peers = {peer.name: peer for peer in cast_peers(bench)}
            if peers:
                # Apart: a slow peer would leave the others too few rounds. The copy runs beside them again.
                again: dict[str, Run] = {"copy_": runs["copy_"]}
                again |= {name: partial(peer.cast, x) for name, peer in peers.items()}
                moved |= {name: x.nbytes + x.numel() * peer.bits / 8 for name, peer in peers.items()}
                yield from list(_table(x, bench.effort.medians(again, least=3), moved))[1:]
    finally:
        backend.close()


def _runs(backend: Backend, x: torch.Tensor) -> tuple[dict[str, Run], dict[str, float]]:
    """What is run, and the bytes that each run moves (read and written), by name; the baseline first."""
    out = torch.empty_like(x)
    runs: dict[str, Run] = {"copy_": partial(out.copy_, x)}
    moved = {"copy_": 2.0 * x.nbytes}
    for fmt in ("MXFP4", "MXFP6", "MXFP8"):
        for dim, where in ((-1, ""), (0, " dim 0")):
            packs, fakes = f"quantize {fmt}{where}", f"fake_quantize {fmt}{where}"
            runs[packs] = partial(backend.quantize, x, fmt, dim, scale_rule="rceil")
            moved[packs] = x.nbytes + x.numel() * get_format(fmt).bits_per_element / 8
            runs[fakes] = partial(backend.fake_quantize, x, fmt, dim, scale_rule="rceil", out=out)
            moved[fakes] = 2.0 * x.nbytes
    drawn = "fake_quantize MXFP4 stochastic"
    key = StochasticKey(1, 2, 3)
    runs[drawn] = partial(
        backend.fake_quantize, x, "MXFP4", rounding="stochastic", key=key, scale_rule="rceil", out=out
    )
    moved[drawn] = 2.0 * x.nbytes
    return runs, moved


def _table(x: torch.Tensor, seconds: dict[str, float], moved: dict[str, float]) -> Iterator[Row]:
    dtype = str(x.dtype).removeprefix("torch.")
    case = f"{dtype} {x.shape[0]}x{x.shape[1]}"
    copy = moved["copy_"] / seconds["copy_"]
    for what, median in seconds.items():
        rate = moved[what] / median
        target, stretch = TARGETS[x.device.type].get((dtype, what), (None, None))
        yield Row("cast", case, what, median, rate / copy, target, stretch, note=f"{rate / 1e9:.1f} GB/s")
