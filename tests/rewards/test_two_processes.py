"""Under several processes all of them shape by, and measure, the numbers of all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mx_trl.critic_metrics import summary
from mx_trl.rewards.shaping import Shaping


@pytest.mark.slow
def test_two_processes_count_the_numbers_of_both(tmp_path: Path) -> None:
    script = Path(__file__).with_name("two_processes.py")
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", script, tmp_path / "out"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, env=environment, timeout=500
    )
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"out.{rank}").read_text()) for rank in (0, 1))
    assert first[:2] == second[:2]

    numbers = torch.arange(24.0).view(4, 6).sin()
    alone = Shaping(normalise=True)
    by_rank: list[list[list[float]]] = [[], []]
    for step in (0, 1):  # both processes' rows of a step count before either is shaped
        rows = numbers[[step, 2 + step]].tolist()
        both = alone(rows[0] + rows[1])
        by_rank[0].append(both[:6])
        by_rank[1].append(both[6:])
    assert first[0] == alone.state_dict()
    assert (first[2], second[2]) == (by_rank[0], by_rank[1])
    assert first[1] == pytest.approx(summary(numbers, numbers.cos(), numbers > -0.5), rel=1e-12)
