"""Two processes that train together: each keeps its own state, and resumes from it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.checkpoints.compared import same_tensors, train_log

pytest.importorskip("trl")

pytestmark = pytest.mark.slow

COMMON = {
    "policy": "C8",
    "learning_rate": 1e-3,
    "lr_scheduler_type": "linear",
    "per_device_train_batch_size": 4,
    "max_steps": 4,
    "temperature": 1.0,
    "seed": 1,
    "bf16": False,
    "use_cpu": True,
    "gradient_checkpointing": False,
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 1,
    "report_to": "none",
}
OWN = {
    "ppo": {"num_mini_batches": 2, "num_ppo_epochs": 2, "response_length": 8},
    "grpo": {"num_generations": 4, "max_completion_length": 8, "num_iterations": 2},
}


@pytest.mark.parametrize("kind", [pytest.param("ppo", marks=pytest.mark.trl("<1.13")), "grpo"])
def test_resumed_is_unbroken_bit_for_bit(kind: str, repository: Path, tmp_path: Path) -> None:
    # Step 3 of GRPO learns a second time from samples that each rank drew for itself.
    _train(kind, repository, tmp_path / "unbroken", {})
    checkpoint = tmp_path / "unbroken" / "checkpoints" / "checkpoint-3"
    assert (checkpoint / "mx_state_1.safetensors").is_file()
    _train(kind, repository, tmp_path / "resumed", {"resume_from_checkpoint": str(checkpoint)})
    assert train_log(tmp_path / "resumed") == train_log(tmp_path / "unbroken")
    last = [tmp_path / run / "checkpoints" / "checkpoint-4" for run in ("unbroken", "resumed")]
    files = ["model.safetensors", *(["critic/model.safetensors"] if kind == "ppo" else [])]
    for file in files:
        assert same_tensors(last[0] / file, last[1] / file), file


def _train(kind: str, repository: Path, folder: Path, more: dict[str, str]) -> None:
    config = folder.with_suffix(".yaml")
    config.write_text(yaml.safe_dump({**COMMON, **OWN[kind], **more, "output_dir": str(folder)}))
    # Not accelerate launch --cpu --num_processes 2: that silently makes one process of it.
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [sys.executable, *words, str(repository / "examples" / f"{kind}_mx.py"), "--config", str(config)],
        capture_output=True, text=True, timeout=900,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TRL_EXPERIMENTAL_SILENCE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
