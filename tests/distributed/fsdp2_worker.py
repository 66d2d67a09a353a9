"""What each rank of the FSDP2 test runs: the same steps sharded and whole, without any trainer."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard

from mx_plugin.execution.engine import Engine
from mx_plugin.plugins import get_backend
from mx_plugin.precision import PolicyProvider, load_policy

WIDTH, STEPS = 64, 3


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(x)))


def model() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(Block(), Block(), nn.Linear(WIDTH, WIDTH))


def shard(net: nn.Sequential) -> None:
    for part in net:  # the last is a Linear: fully_shard changes the class of an adopted layer
        fully_shard(part)
    fully_shard(net)


def train(policy: str, rank: int, ranks: int, *, when: str) -> dict[str, Any]:
    """``when``: sharded ``before`` or ``after`` adoption, or ``never`` (then gradients are averaged by hand)."""
    net = model()
    if when == "before":
        shard(net)
    classes = [type(module) for module in net.modules()]
    engine = Engine(PolicyProvider(load_policy(policy)), get_backend("cpu"), seed=5, rank=rank, ranks=ranks)
    losses, rewards = [], []
    with engine:
        engine.adopt({"policy": net})
        if when == "after":
            shard(net)
        optimiser = torch.optim.AdamW(net.parameters(), lr=1e-2)
        draw = torch.Generator().manual_seed(11 + rank)
        for step in range(STEPS):
            engine.advance(step)
            x = torch.randn(2, 16, WIDTH, generator=draw)
            with torch.no_grad(), engine.phase("rollout"):  # packed weights, which every step makes stale
                rewards.append(net(x).square().mean().item())
            loss = (net(x) - 1).square().mean()
            loss.backward()
            if when == "never" and ranks > 1:
                for parameter in net.parameters():
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= ranks
            optimiser.step()
            optimiser.zero_grad()
            losses.append(loss.item())
        engine.check_hits()
        hits = engine.hits()
    if when == "before":
        assert [type(module) for module in net.modules()] == classes
    if when == "after":
        assert all(isinstance(part, FSDPModule) for part in net) and type(net[2]).__mro__[2] is nn.Linear
    whole = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in net.parameters()]
    return {"losses": losses, "rewards": rewards, "hits": hits, "norms": [w.double().norm().item() for w in whole]}


def main(_: str, job_file: str) -> None:
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    assert ranks == job["ranks"] == int(os.environ["WORLD_SIZE"])
    for run in job["runs"]:
        seen = {"world": ranks, **train(job["policy"], rank, ranks, when=run["name"])}
        file = Path(job["folder"]) / run["name"] / f"rank{rank}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(seen), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
