"""A process killed in mid-training, and another that goes on: the files are those of a run that nobody disturbed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.checkpoints.compared import same_tensors, train_log

pytest.importorskip("trl")

pytestmark = pytest.mark.slow


def _command(kind: str, repository: Path, folder: Path, *words: str) -> list[str]:
    config = yaml.safe_load((repository / "examples" / "configs" / f"{kind}_embedded.yaml").read_text())
    config.pop("policies", None)
    config.update(policy="C8", max_steps=6, per_device_train_batch_size=8, report_to="none", use_cpu=True)
    config.update(save_strategy="steps", save_steps=2, output_dir=str(folder))
    file = folder.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(config))
    return [sys.executable, str(repository / "examples" / f"{kind}_mx.py"), "--config", str(file), *words]


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}


@pytest.mark.parametrize("kind", [pytest.param("ppo", marks=pytest.mark.trl("<1.13")), "grpo", "dpo"])
def test_goes_on_by_auto(kind: str, repository: Path, tmp_path: Path) -> None:
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    subprocess.run(_command(kind, repository, unbroken), check=True, capture_output=True, env=_environment())

    process = subprocess.Popen(
        _command(kind, repository, killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_environment()
    )
    deadline = time.monotonic() + 600
    while not (killed / "checkpoints" / "checkpoint-2" / "mx_state.json").is_file():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (killed / "checkpoints" / "final").exists()

    resume = _command(kind, repository, killed, "--resume_from_checkpoint", "auto")
    subprocess.run(resume, check=True, capture_output=True, env=_environment())
    assert train_log(killed) == train_log(unbroken)
    for file in ("final/model.safetensors", "checkpoint-6/mx_state.safetensors"):
        ours, theirs = (folder / "checkpoints" / file for folder in (killed, unbroken))
        assert same_tensors(ours, theirs), file
