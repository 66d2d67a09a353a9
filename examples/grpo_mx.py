"""GRPO with MX rollouts. Without arguments: the embedded small model, no network.

accelerate launch examples/grpo_mx.py
accelerate launch examples/grpo_mx.py --policy C8
accelerate launch examples/grpo_mx.py --no_mx
"""

from __future__ import annotations

from pathlib import Path

from trl import GRPOConfig

from mx_trl.stages.arguments import GRPOScriptArguments
from mx_trl.stages.command import run_example
from mx_trl.stages.grpo import run_grpo

EMBEDDED = Path(__file__).parent / "configs" / "grpo_embedded.yaml"

if __name__ == "__main__":
    run_example(run_grpo, GRPOScriptArguments, lambda: GRPOConfig, embedded_config=EMBEDDED)
