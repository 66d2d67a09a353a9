"""The learning stages under torchrun: two processes learn what one learns from batches of twice the size."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("trl")

from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from mx_trl.stages.final import FINAL

if TYPE_CHECKING:
    from mx_trl.embedded import EmbeddedFolder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sft", "reward", "dpo"])
def test_two_processes_learn_as_one_with_larger_batches(
    kind: str, repository: Path, tmp_path: Path, embedded: EmbeddedFolder
) -> None:
    losses = {}
    for ranks, batch in ((1, 8), (2, 4)):
        folder = tmp_path / str(ranks)
        shutil.copytree(embedded.policy.parent, folder / "embedded")
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks),
            str(repository / "examples" / f"{kind}_mx.py"), "--output_dir", str(folder), "--policy", "C8",
            "--max_steps", "2", "--num_examples", "20", "--num_eval_examples", "4", "--use_cpu", "true",
            "--per_device_train_batch_size", str(batch), "--report_to", "none", "--disable_tqdm", "true",
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        lines = (folder / "logs" / "train.jsonl").read_text().splitlines()
        losses[ranks] = [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]
        auto = AutoModelForSequenceClassification if kind == "reward" else AutoModelForCausalLM
        auto.from_pretrained(folder / FINAL)
    assert losses[2] == pytest.approx(losses[1], rel=1e-3)
