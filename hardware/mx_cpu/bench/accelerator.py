"""What a bench must know of a device that works beside Python: when it is done, its limits, its kernels alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from mx_plugin.bench import BenchUnavailable, Run

LEAST_CALLS = 32
"""Calls that one replay holds at least, so that starting it does not count."""
COPIED_BYTES = 1 << 30
MATMUL_SIZE = 8192
_TRIES = 10


def checked(device: str) -> str:
    """``device``, if torch has it here.

    Raises:
        BenchUnavailable: it has not, or it is one whose kernels cannot be replayed.
    """
    kind = device.split(":")[0]
    if kind == "cpu":
        return "cpu"
    if kind != "cuda":
        raise BenchUnavailable(f"--device {device}: benches run on cpu or cuda")
    if not torch.cuda.is_available():
        raise BenchUnavailable(f"--device {device}: torch {torch.__version__} finds no CUDA device; take --device cpu")
    if torch.device(device).index is not None:
        torch.cuda.set_device(device)
    return device


def copy_bandwidth(device: str) -> float:
    """Bytes a second, read and written, of the best of ten copies of a gibibyte."""
    source = torch.ones(COPIED_BYTES // 4, dtype=torch.int32, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _best(lambda: target.copy_(source))


def matmul_rate(device: str) -> float:
    """Operations a second (2 for a product and its sum) of the best of ten bfloat16 products of 8192 x 8192."""
    a = torch.randn(MATMUL_SIZE, MATMUL_SIZE, dtype=torch.bfloat16, device=device)
    out = torch.empty_like(a)
    return 2 * MATMUL_SIZE**3 / _best(lambda: torch.mm(a, a, out=out))


def _best(run: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(_TRIES):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


class Replayed:
    """Several calls of a run as one CUDA graph: their kernels without the Python that starts them.

    ``calls``: how many; whole turns of a run that says in ``period`` how many calls its turn has.
    """

    def __init__(self, run: Run) -> None:
        period = getattr(run, "period", 1)
        self.calls = -(-LEAST_CALLS // period) * period
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # what compiles or allocates once must have done so before the capture
            for _ in range(period):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph: Any = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            for _ in range(self.calls):
                run()

    def __call__(self) -> None:
        self._graph.replay()
