"""The same seed gives the same log, bit for bit, stage by stage; another seed another one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.checkpoints.compared import train_log

pytest.importorskip("trl")

if TYPE_CHECKING:
    from mx_trl.stages.built import BuiltStage

Make = Callable[..., "BuiltStage"]

KINDS = [pytest.param("ppo", marks=pytest.mark.trl("<1.13")), "grpo", "sft", "reward", "dpo"]


@pytest.mark.parametrize("kind", KINDS)
def test_in_one_process(kind: str, make: Make, mx_gradient: str, tmp_path: Path) -> None:
    # Every source of chance is in it: order of the data, sampling, stochastic rounding.
    def log(name: str, seed: int) -> str:
        make(kind, tmp_path / name, mx_gradient, seed=seed, max_steps=2, save_strategy="no").train()
        return train_log(tmp_path / name)

    first = log("first", 5)
    assert log("again", 5) == first
    assert log("other", 6) != first


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_in_two_processes_that_hash_differently(kind: str, repository: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((repository / "examples" / "configs" / f"{kind}_embedded.yaml").read_text())
    config.pop("policies", None)
    config.update(policy="C8", max_steps=2, per_device_train_batch_size=8, report_to="none", use_cpu=True)
    logs = []
    for hashing in ("1", "2"):
        folder = tmp_path / hashing
        file = tmp_path / f"{hashing}.yaml"
        file.write_text(yaml.safe_dump({**config, "output_dir": str(folder)}))
        subprocess.run(
            [sys.executable, str(repository / "examples" / f"{kind}_mx.py"), "--config", str(file)],
            check=True, capture_output=True, timeout=600,
            env={**os.environ, "PYTHONHASHSEED": hashing, "OMP_NUM_THREADS": "1", "TRL_EXPERIMENTAL_SILENCE": "1"},
        )  # fmt: skip
        logs.append(train_log(folder))
    assert logs[0] == logs[1]
    assert len(logs[0].splitlines()) >= 2 and "step" in json.loads(logs[0].splitlines()[0])
