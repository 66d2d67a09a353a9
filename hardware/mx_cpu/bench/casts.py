"""Casts of a 4096 x 4096 tensor: bytes moved a second, against ``torch.copy_``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from mx_plugin.formats import StochasticKey, get_format
from mx_plugin.interfaces import Backend

from .timing import Effort, Row, Run, medians

SIZE = 4096

TARGETS = {
    ("float32", "quantize MXFP4"): (0.9, 1.2),
    ("float32", "quantize MXFP8"): (0.9, 1.2),
    ("bfloat16", "quantize MXFP4"): (0.85, 1.0),
    ("float32", "fake_quantize MXFP8"): (1.3, 1.45),
}
"""(target, stretch) by dtype and what is run."""


def cast_rows(backend: Backend, effort: Effort) -> Iterator[Row]:
    """Packing (into fresh memory) and fake quantisation (into a buffer), along the last dimension and the first."""
    key = StochasticKey(1, 2, 3)
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        x = torch.randn(SIZE, SIZE).to(dtype)
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
        runs[drawn] = partial(
            backend.fake_quantize, x, "MXFP4", rounding="stochastic", key=key, scale_rule="rceil", out=out
        )
        moved[drawn] = 2.0 * x.nbytes
        seconds = medians(runs, effort)
        copy = moved["copy_"] / seconds["copy_"]
        for what, median in seconds.items():
            target, stretch = TARGETS.get((name, what), (None, None))
            rate = moved[what] / median
            yield Row(
                "cast", f"{name} {SIZE}x{SIZE}", what, median, rate / copy, target, stretch, f"{rate / 1e9:.1f} GB/s"
            )
