"""GRPO with MX rollouts. Without arguments: the embedded small model, no network.

accelerate launch examples/grpo_mx.py
accelerate launch examples/grpo_mx.py --policy C8
accelerate launch examples/grpo_mx.py --no_mx
"""

from __future__ import annotations

from trl import GRPOConfig

from mx_trl.stages.arguments import GRPOScriptArguments
from mx_trl.stages.command import run_example
from mx_trl.stages.grpo import run_grpo

if __name__ == "__main__":
    run_example(run_grpo, GRPOScriptArguments, GRPOConfig, embedded_config="grpo_embedded.yaml", script=__file__)
