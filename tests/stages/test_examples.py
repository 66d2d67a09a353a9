"""Every stage's script, from its YAML, on the embedded data, under policies A and C8."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("trl")

from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from trl import ModelConfig, TrlParser

from mx_plugin.config import MXConfig
from mx_trl.stages.final import FINAL
from mx_trl.stages.table import NAMES, stage_of

if TYPE_CHECKING:
    from mx_trl.embedded import EmbeddedFolder

SHORT = {
    "sft": ["--num_examples", "8", "--num_eval_examples", "2", "--per_device_train_batch_size", "4"],
    "reward": ["--num_examples", "8", "--num_eval_examples", "2", "--per_device_train_batch_size", "4"],
    "dpo": ["--num_examples", "8", "--num_eval_examples", "2", "--per_device_train_batch_size", "4"],
    "ppo": ["--num_prompts", "8", "--per_device_train_batch_size", "4", "--response_length", "4"],
    "grpo": ["--num_prompts", "8", "--per_device_train_batch_size", "8", "--max_completion_length", "4"],
}
KINDS = [pytest.param(kind, marks=pytest.mark.trl("<1.13") if kind == "ppo" else ()) for kind in NAMES]


@pytest.mark.parametrize("kind", KINDS)
def test_the_stage_runs_from_its_yaml_under_a_and_c8_and_leaves_models_that_load(
    kind: str, repository: Path, tmp_path: Path, embedded: EmbeddedFolder, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    shutil.copytree(embedded.policy.parent, tmp_path / "embedded")
    words = ["--output_dir", str(tmp_path), "--policies", "A", "C8", "--max_steps", "1", "--report_to", "none",
             "--use_cpu", "true", *SHORT[kind]]  # fmt: skip
    script = repository / "examples" / f"{kind}_mx.py"
    monkeypatch.setattr(sys, "argv", [str(script), *words])
    runpy.run_path(str(script), run_name="__main__")
    said = capsys.readouterr().out
    assert "Side by side:" in said and ", policy A: 1 steps" in said and ", policy C8: 1 steps" in said
    auto = AutoModelForSequenceClassification if kind == "reward" else AutoModelForCausalLM
    for policy in ("A", "C8"):
        assert json.loads((tmp_path / f"policy_{policy}" / "config.json").read_text())["mx"]["policy"] == policy
        auto.from_pretrained(tmp_path / f"trainer_{policy}" / FINAL)


@pytest.mark.parametrize("kind", KINDS)
def test_every_yaml_of_the_stage_is_understood(kind: str, repository: Path) -> None:
    stage = stage_of(kind)
    parser = TrlParser((stage.script_class, stage.training_class(), ModelConfig, MXConfig))
    files = sorted((repository / "examples" / "configs").glob(f"{kind}_*.yaml"))
    assert f"{kind}_embedded.yaml" in [file.name for file in files]
    for file in files:
        assert parser.parse_args_and_config(["--config", str(file)])[1].max_steps > 0


@pytest.mark.parametrize("kind", KINDS)
def test_no_argument_of_ours_hides_one_of_trl(kind: str) -> None:
    stage = stage_of(kind)
    ours = {f.name for f in [*fields(stage.script_class), *fields(MXConfig)]}
    theirs = {f.name for f in [*fields(stage.training_class()), *fields(ModelConfig)]}
    assert not ours & theirs
