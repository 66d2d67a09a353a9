"""A reward model trained with MX layers, from pairs or scores. Without arguments: the embedded small model, no network.

accelerate launch examples/reward_mx.py
accelerate launch examples/reward_mx.py --policy C8
accelerate launch examples/reward_mx.py --config examples/configs/reward_stories15m.yaml
accelerate launch examples/reward_mx.py --no_mx
"""

from __future__ import annotations

from pathlib import Path

from mx_trl.stages.arguments import RewardScriptArguments
from mx_trl.stages.command import run_example
from mx_trl.stages.reward import run_reward
from mx_trl.stages.trainers import load_trainer

EMBEDDED = Path(__file__).parent / "configs" / "reward_embedded.yaml"

if __name__ == "__main__":
    run_example(run_reward, RewardScriptArguments, lambda: load_trainer("Reward")[0], embedded_config=EMBEDDED)
