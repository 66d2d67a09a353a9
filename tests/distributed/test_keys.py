"""Stochastic rounding is keyed by the micro-batch, counted over ranks: where it runs changes no bit."""

from __future__ import annotations

import torch
from torch import nn

from mx_plugin.execution.engine import Engine
from mx_plugin.plugins import get_backend
from mx_plugin.precision import PolicyProvider, PrecisionPolicy

DRAWN = {"format": "MXFP4/MXFP4", "rounding": "stochastic"}
POLICY = {"version": 1, "name": "drawn", "defaults": {"gradient": {"forward": "FP16", "dgrad": DRAWN, "wgrad": DRAWN}}}


def gradients(batches: list[torch.Tensor], rank: int, ranks: int) -> list[torch.Tensor]:
    """dW of each micro-batch that this rank runs in one step."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 48, bias=False), nn.Linear(48, 32, bias=False))
    engine = Engine(
        PolicyProvider(PrecisionPolicy.from_dict(POLICY)), get_backend("reference"), seed=5, rank=rank, ranks=ranks
    )
    found = []
    with engine:
        engine.adopt({"policy": net})
        engine.advance(4)
        for batch in batches:
            net(batch).square().mean().backward()
            found.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
            net.zero_grad()
    return found


def test_a_micro_batch_draws_the_same_bits_on_whichever_rank_it_runs() -> None:
    batches = list(torch.randn(4, 8, 64, generator=torch.Generator().manual_seed(1)))
    alone = gradients(batches, 0, 1)
    first, second = gradients(batches[0::2], 0, 2), gradients(batches[1::2], 1, 2)
    assert all(torch.equal(a, b) for a, b in zip(alone, [first[0], second[0], first[1], second[1]], strict=True))


def test_two_ranks_do_not_draw_the_same_bits_for_different_micro_batches() -> None:
    batch = torch.randn(8, 64, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(gradients([batch], 0, 2)[0], gradients([batch], 1, 2)[0])
