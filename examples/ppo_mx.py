"""PPO with MX rollouts. Without arguments: the embedded small model, no network, about a minute per policy.

accelerate launch examples/ppo_mx.py                      # policies A and C, side by side
accelerate launch examples/ppo_mx.py --policy C8
accelerate launch examples/ppo_mx.py --config examples/configs/ppo_stories15m.yaml
accelerate launch examples/ppo_mx.py --policy C --backend fpga --fpga_layers "*.layers.0.self_attn.q_proj"
accelerate launch examples/ppo_mx.py --no_mx              # the same training in plain TRL
"""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

from mx_trl.stages.arguments import PPOScriptArguments
from mx_trl.stages.command import run_example
from mx_trl.stages.ppo import load_ppo, run_ppo

EMBEDDED = Path(__file__).parent / "configs" / "ppo_embedded.yaml"

if __name__ == "__main__":
    run_example(run_ppo, PPOScriptArguments, lambda: load_ppo()[0], embedded_config=EMBEDDED)
