"""Forward and backward of one linear layer in training, all three products in MXFP8, against the plain layer."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import nn

from mx_plugin import get_backend
from mx_plugin.bench import Bench, Row, Run
from mx_plugin.execution.engine import Engine
from mx_plugin.execution.phases import GRADIENT
from mx_plugin.precision import PolicyProvider, PrecisionPolicy

ROWS, SIZE = {"cpu": 512, "cuda": 4096}, 4096

TARGETS = {"cpu": (1 / 1.15, 1.0), "cuda": (1 / 1.25, None)}
"""(target, stretch) for a bfloat16 model, by kind of device: at most 1.15 times the plain layer's time, 1.25 times."""

POLICY = {"version": 1, "name": "train", "defaults": {"rollout": "FP16", "reward": "FP16", "gradient": "MXFP8"}}


def train_rows(bench: Bench, rows: int | None = None, size: int = SIZE) -> Iterator[Row]:
    """Y = X W^T, dX and dW of a (size, size) layer with ``rows`` tokens; models in bfloat16 and in float32."""
    kind = torch.device(bench.device).type
    rows = rows or ROWS[kind]
    for dtype in (torch.bfloat16, torch.float32):
        plain = nn.Linear(size, size, bias=False, dtype=dtype, device=bench.device)
        adopted = copy.deepcopy(plain)
        x = torch.randn(rows, size, dtype=dtype, device=bench.device, requires_grad=True)
        dy = torch.randn(rows, size, dtype=dtype, device=bench.device)
        backend = get_backend(bench.backend)
        try:
            with Engine(PolicyProvider(PrecisionPolicy.from_dict(POLICY)), backend) as engine:
                engine.adopt({"policy": nn.Sequential(adopted)})
                with engine.phase(GRADIENT):
                    seconds = bench.effort.medians({"plain": _pass(plain, x, dy), "MXFP8": _pass(adopted, x, dy)})
                engine.check_hits()
        finally:
            backend.close()
        case = f"{str(dtype).removeprefix('torch.')} {size}x{size} M={rows}"
        yield Row("train", case, "plain", seconds["plain"], 1.0)
        target, stretch = TARGETS[kind] if dtype == torch.bfloat16 else (None, None)
        time_ratio = seconds["MXFP8"] / seconds["plain"]
        yield Row(
            "train",
            case,
            "MXFP8 forward, dgrad, wgrad",
            seconds["MXFP8"],
            1 / time_ratio,
            target,
            stretch,
            note=f"{time_ratio:.2f} times the plain time",
        )


def _pass(layer: nn.Module, x: torch.Tensor, dy: torch.Tensor) -> Run:
    def run() -> None:
        layer.zero_grad(set_to_none=True)
        x.grad = None
        layer(x).backward(dy)

    return run
