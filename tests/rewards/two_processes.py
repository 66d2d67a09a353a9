"""``torchrun --nproc_per_node 2 two_processes.py FILE``: shaping and the critic's summary over both processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator

from mx_trl.critic_metrics import summary
from mx_trl.rewards.shaping import Shaping

if __name__ == "__main__":
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2, "torchrun gave no second process"
    numbers = torch.arange(24.0).view(4, 6).sin()[2 * accelerator.process_index :][:2]
    shaping = Shaping(normalise=True)
    shaped = [shaping(row.tolist()) for row in numbers]
    found = summary(numbers, numbers.cos(), numbers > -0.5, accelerator)
    states = [shaping.state_dict(), found, shaped]
    Path(f"{sys.argv[1]}.{accelerator.process_index}").write_text(json.dumps(states), encoding="utf-8")
