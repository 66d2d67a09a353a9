"""Supervised fine-tuning with MX layers. Without arguments: the embedded small model, no network.

accelerate launch examples/sft_mx.py
accelerate launch examples/sft_mx.py --policy C8
accelerate launch examples/sft_mx.py --config examples/configs/sft_stories15m.yaml
accelerate launch examples/sft_mx.py --no_mx
"""

from __future__ import annotations

from pathlib import Path

from mx_trl.stages.arguments import SFTScriptArguments
from mx_trl.stages.command import run_example
from mx_trl.stages.sft import run_sft
from mx_trl.stages.trainers import load_trainer

EMBEDDED = Path(__file__).parent / "configs" / "sft_embedded.yaml"

if __name__ == "__main__":
    run_example(run_sft, SFTScriptArguments, lambda: load_trainer("SFT")[0], embedded_config=EMBEDDED)
