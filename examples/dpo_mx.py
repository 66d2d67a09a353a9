"""DPO with MX layers. Without arguments: the embedded small model, no network.

accelerate launch examples/dpo_mx.py
accelerate launch examples/dpo_mx.py --policy C8
accelerate launch examples/dpo_mx.py --config examples/configs/dpo_stories15m.yaml
accelerate launch examples/dpo_mx.py --no_mx
"""

from __future__ import annotations

from pathlib import Path

from mx_trl.stages.arguments import DPOScriptArguments
from mx_trl.stages.command import run_example
from mx_trl.stages.dpo import run_dpo
from mx_trl.stages.trainers import load_trainer

EMBEDDED = Path(__file__).parent / "configs" / "dpo_embedded.yaml"

if __name__ == "__main__":
    run_example(run_dpo, DPOScriptArguments, lambda: load_trainer("DPO")[0], embedded_config=EMBEDDED)
