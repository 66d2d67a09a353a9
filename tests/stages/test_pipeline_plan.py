"""The file of a pipeline: what it may say, and which models each stage reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mx_trl.errors import StageError
from mx_trl.pipeline.plan import PipelinePlan, read_plan


def plan_of(tmp_path: Path, *stages: Any, **further: Any) -> PipelinePlan:
    file = tmp_path / "pipeline.yaml"
    file.write_text(yaml.safe_dump({"output_dir": "runs/x", "stages": list(stages), **further}), encoding="utf-8")
    return read_plan(file)


def test_each_stage_reads_the_last_policy_and_ppo_the_last_reward_model(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "sft", "reward", "ppo", {"stage": "dpo"}, {"stage": "grpo"})
    assert [(stage.name, stage.model, stage.reward) for stage in plan.stages] == [
        ("sft", None, None),
        ("reward", "sft", None),
        ("ppo", "sft", "reward"),
        ("dpo", "ppo", None),
        ("grpo", "dpo", "reward"),
    ]
    assert plan.embedded
    assert plan.final("sft") == Path("runs/x/sft/checkpoints/final")


def test_what_the_options_name_is_not_replaced(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path,
        {"stage": "sft", "options": {"model_name_or_path": "some/model"}},
        {"stage": "reward", "options": {"model_name_or_path": "other/model"}},
        {"stage": "grpo", "options": {"reward": "sentiment"}},
    )
    assert not plan.embedded
    assert [(stage.model, stage.reward) for stage in plan.stages] == [(None, None), (None, None), ("sft", None)]


def test_a_recipe_that_names_a_model_for_itself_takes_the_last_stages_in_a_row(tmp_path: Path) -> None:
    (tmp_path / "alone.yaml").write_text("model_name_or_path: data/start\nreward_model_path: data/scorer\n")
    alone = {"config": "alone.yaml"}
    sft, reward, ppo = plan_of(tmp_path, {"stage": "sft", **alone}, {"stage": "reward", **alone},
                               {"stage": "ppo", **alone}).stages  # fmt: skip
    assert (sft.model, sft.options["model_name_or_path"]) == (None, "data/start")
    assert (reward.model, ppo.model, ppo.reward) == ("sft", "sft", "reward")
    assert ppo.options == {}
    _, second = plan_of(tmp_path, {"stage": "reward", **alone}, {"stage": "sft", **alone}).stages
    assert second.options["model_name_or_path"] == "data/start", "no policy was trained before it"


def test_options_are_the_recipes_then_the_common_ones_then_the_stages_own(tmp_path: Path) -> None:
    (tmp_path / "sft.yaml").write_text("policies: [A, C]\nseed: 1\nmax_steps: 5\nlearning_rate: 1.0\n")
    entry = {"stage": "sft", "config": "sft.yaml", "options": {"max_steps": 9}}
    [stage] = plan_of(tmp_path, entry, common={"seed": 2, "max_steps": 8, "policy": "C8"}).stages
    assert stage.options == {"seed": 2, "max_steps": 9, "learning_rate": 1.0, "policy": "C8"}


def test_environment_variables_are_put_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_DATA", "folder")
    entry = {"stage": "sft", "options": {"dataset_name": "$SOME_DATA/a.jsonl", "max_steps": 1}}
    assert plan_of(tmp_path, entry).stages[0].options["dataset_name"] == "folder/a.jsonl"
    monkeypatch.delenv("SOME_DATA")
    with pytest.raises(StageError, match="needs the environment variable SOME_DATA, which is not set"):
        plan_of(tmp_path, entry)


def test_a_fingerprint_changes_with_the_options_of_any_stage_that_is_read(tmp_path: Path) -> None:
    def fingerprints(sft: int, reward: int) -> dict[str, str]:
        return plan_of(
            tmp_path,
            {"stage": "sft", "options": {"max_steps": sft}},
            {"stage": "reward", "options": {"max_steps": reward}},
            {"stage": "dpo"},
        ).fingerprints

    first, again, other_sft, other_reward = (
        fingerprints(1, 1),
        fingerprints(1, 1),
        fingerprints(2, 1),
        fingerprints(1, 2),
    )
    assert first == again
    assert all(first[name] != other_sft[name] for name in first)
    assert {name for name in first if first[name] != other_reward[name]} == {"reward"}


@pytest.mark.parametrize(
    ("stages", "further", "message"),
    [
        ([], {}, "stages: expected a list"),
        (["sfd"], {}, "stage 1: stage 'sfd' is not known: did you mean 'sft'"),
        (["sft", "sft"], {}, "the name 'sft' is taken; give this one another by name:"),
        ([{"stage": "sft", "name": "../x"}], {}, "letters, digits, - and _ only"),
        ([{"stage": "sft", "option": {}}], {}, "expected a stage's name or config, name, options, stage; found"),
        ([{"stage": "sft", "options": {"max_minutes": 1}}], {}, "max_minutes is not a stage's option here"),
        ([{"stage": "sft", "options": {"policies": ["A", "B"]}}], {}, "a stage of a pipeline trains once"),
        ([{"stage": "sft", "config": "none.yaml"}], {}, r"cannot read .*none\.yaml"),
        (["sft"], {"stage": []}, "unknown key 'stage': did you mean 'stages'"),
        (["sft"], {"output_dir": None}, "no output_dir"),
        (["sft"], {"max_minutes": 0}, "max_minutes: 0 is not a number above 0"),
        (["sft"], {"launch": "torchrun"}, r"launch: expected words such as \[torchrun"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path: Path, stages: list[Any], further: dict[str, Any], message: str) -> None:
    with pytest.raises(StageError, match=message):
        plan_of(tmp_path, *stages, **further)


def test_the_pipelines_of_the_examples_are_understood(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MX_TEST_DATA", "data")
    files = sorted((repository / "examples" / "configs").glob("pipeline*.yaml"))
    assert files
    for file in files:
        assert read_plan(file).stages
