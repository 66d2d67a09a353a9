"""``mx-plugin memory`` as a user calls it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from mx_plugin.errors import MXError
from mx_trl.memory.arguments import add_arguments
from mx_trl.memory.command import run


def call(*words: str) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args(["--model", "stories15m", *words]))


@pytest.mark.parametrize("stage", ["ppo", "grpo", "sft", "dpo", "reward"])
def test_every_stage_has_a_plan_whose_terms_add_up(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--stage", stage, "--policy", "C", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    for phase in answer["phases"].values():
        assert phase["peak"] == sum(term["bytes"] for term in phase["terms"])
    assert answer["peak"] == max(phase["peak"] for phase in answer["phases"].values())
    assert answer["suggestions"]


def test_the_text_names_phases_terms_and_what_would_need_less(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--policy", "C", "--limit", "4GiB") == 0
    said = capsys.readouterr().out
    for part in ("rollout: ", "packed MXFP4", "rollout logits", "largest per_device_train_batch_size", "share a trunk"):
        assert part in said


def test_a_run_that_exceeds_its_limit_exits_with_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--batch", "64", "--limit", "1GiB") == 1
    assert "largest per_device_train_batch_size within 1.00 GiB" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "stories16m"], "did you mean 'stories15m'"),
        (["--stage", "pto"], "did you mean 'ppo'"),
        (["--dtype", "float64"], "Valid: float32, bfloat16"),
        (["--limit", "10MiB"], "not even per_device_train_batch_size=1 fits"),
        (["--limit", "much"], "a number with a unit"),
        (["--batch", "0"], "must be at least 1"),
        (["--policy", "Z"], "Z"),
        (["--response_length", "500"], "exceed the context"),
        (["--release_frozen"], "needs a precision policy"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_remedy(words: list[str], said: str) -> None:
    with pytest.raises(MXError, match=said.replace("(", r"\(")):
        call(*words)


def test_an_architecture_without_formula_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(MXError, match="is a bert: the planner has no formula"):
        call("--model", str(tmp_path))
