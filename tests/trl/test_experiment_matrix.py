"""An experiment with D and no matrix measures one: on the recipe's own start, prompts and length of answers."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from subprocess import run
from typing import Any

import pytest

from mx_plugin.precision import PrecisionPolicy, SensitivityMatrix
from mx_trl.embedded import EmbeddedFolder
from mx_trl.experiments.own_matrix import MOST_EXACT, profile_words
from mx_trl.sensitivity.arguments import add_arguments
from mx_trl.sensitivity.command import check


def start(embedded: EmbeddedFolder, layers: int = 15, **prompts: Any) -> dict[str, Any]:
    told = {"dataset": str(embedded.prompts), "dataset_split": "train", "dataset_config": None, "prompt_from": "prompt",
            "prompt_words": 12, "generate": 20, "max_length": 64, "dtype": "float32", "trust_remote_code": False,
            **prompts}  # fmt: skip
    return {
        "start": {"model": str(embedded.policy)},
        "prompts": told,
        "layers": [{"role": "policy"}] * layers + [{"role": "value"}] * 100,
    }


def asked(examined: dict[str, Any]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(profile_words(examined, Path("m.csv")))


def test_the_profile_sees_what_the_recipe_sees(embedded: EmbeddedFolder) -> None:
    arguments = asked(start(embedded, prompt_from="story", prompt_words=8, dtype="bfloat16"))
    check(arguments)
    assert (arguments.model, arguments.dataset) == (str(embedded.policy), str(embedded.prompts))
    assert (arguments.prompt_from, arguments.prompt_words, arguments.dtype) == ("story", 8, "bfloat16")
    assert (arguments.generate, arguments.max_length, arguments.phases) == (20, 64, ["rollout"])
    assert arguments.resume


@pytest.mark.parametrize(("context", "generate"), [(None, 4096), (64, 64), (100_000, 1000), (8, 7)])
def test_long_answers_and_short_contexts_leave_room_for_the_prompt(
    embedded: EmbeddedFolder, context: int | None, generate: int
) -> None:
    check(asked(start(embedded, max_length=context, generate=generate)))


def test_many_layers_are_estimated_and_not_measured_one_by_one(embedded: EmbeddedFolder) -> None:
    assert asked(start(embedded, layers=MOST_EXACT)).engine == "exact"
    assert asked(start(embedded, layers=MOST_EXACT + 1)).engine == "fast"


@pytest.mark.slow
def test_policies_A_and_D_run_without_a_matrix_of_the_users(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mx_plugin", "experiment", "--policies", "A", "D", "--num_steps", "1",
               "--no_evaluate", "--output", str(tmp_path / "results")]  # fmt: skip
    first = run(command, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    matrix = SensitivityMatrix.read(tmp_path / "results/start/sensitivity_matrix.csv")
    policy = PrecisionPolicy.from_yaml(tmp_path / "results/policies/D.yaml")
    assert {row.phase for row in matrix.rows} == {"rollout"}
    assert any(policy.resolve(row.layer, "rollout") != "FP16" for row in matrix.rows)
    again = run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0 and "2 are finished" in again.stderr, again.stderr
