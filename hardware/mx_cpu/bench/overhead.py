"""What an adopted layer costs beside its arithmetic: a tiny one, so that nearly all of its time is overhead."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import nn

from mx_plugin import get_backend
from mx_plugin.bench import Bench, Row, Run
from mx_plugin.execution.engine import Engine
from mx_plugin.execution.phases import ROLLOUT
from mx_plugin.interfaces import Backend
from mx_plugin.precision import PolicyProvider, load_policy

Layer = Callable[[torch.Tensor], torch.Tensor]

SIZE = 32
AT_MOST = 8e-6
"""Seconds a call, in decode."""

ADOPTED = "adopted nn.Linear"
_CALLS = 1000


class Trivial(nn.Module):
    """Returns its input: the price of any module's call."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def overhead_rows(bench: Bench, calls: int = _CALLS) -> Iterator[Row]:
    """A (32, 32) layer on one row under policy C in ``rollout``; seconds are those of a call.

    The measured overhead is an adopted call less a trivial module's. That still holds the product of 32 x 32
    numbers and the crossing into C++, so it errs on the side of too much.
    """
    plain = nn.Linear(SIZE, SIZE, bias=False, dtype=torch.bfloat16, device=bench.device)
    model, trivial = nn.Sequential(copy.deepcopy(plain)), Trivial()
    x = torch.randn(1, SIZE, dtype=torch.bfloat16, device=bench.device)
    backend = get_backend(bench.backend)
    try:
        with Engine(PolicyProvider(load_policy("C")), backend) as engine:
            engine.adopt({"policy": model})
            with engine.phase(ROLLOUT), torch.no_grad():
                runs: dict[str, Layer] = {"trivial module": trivial, "nn.Linear": plain, ADOPTED: model[0]}
                runs["backend's call alone"] = _bound(backend, plain.weight)
                seconds = bench.effort.medians({name: _repeat(layer, x, calls) for name, layer in runs.items()})
            engine.check_hits()
    finally:
        backend.close()
    case = f"{SIZE}x{SIZE} M=1, a call"
    each = {name: taken / calls for name, taken in seconds.items()}
    for name, median in each.items():
        yield Row("overhead", case, name, median)
    least = max(each[ADOPTED] - each["trivial module"], 0.0)
    at_most = AT_MOST if bench.device == "cpu" else None
    yield Row("overhead", case, "adopted less trivial", least, at_most=at_most)


def _bound(backend: Backend, weight: torch.Tensor) -> Layer:
    """What the adopted layer calls in the end, without module, phase and counts."""
    linear = backend.bind(backend.load_weight(backend.quantize(weight, "MXFP4", scale_rule="rceil")), "MXFP8", "rceil")
    return lambda x: linear(x, None)


def _repeat(layer: Layer, x: torch.Tensor, calls: int) -> Run:
    def run() -> None:
        for _ in range(calls):
            layer(x)

    return run
