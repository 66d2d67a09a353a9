"""Plans: written and read back equal, continued when equal, refused with the difference named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mx_plugin.experiments.errors import ExperimentError
from mx_plugin.experiments.folder import ResultsFolder
from mx_plugin.experiments.plan import Plan, PlannedRun, settle


def plan(*names: str, seeds: tuple[int, ...] = (1, 2), **changes: Any) -> Plan:
    runs = tuple(PlannedRun(name, name, seed, f"sha of {name}") for seed in seeds for name in names or ("A", "D"))
    recipe = {"config": "x.yaml", "words": ["--config", "x.yaml"], "options": {"learning_rate": 1e-3}}
    margin = {"metric": "win_rate", "value": 0.05}
    made = Plan("ppo", recipe, runs, seeds, 100, "A", {"model": "m", "sha256": "abc"}, 2, margin=margin)
    return replace(made, **changes)


def test_a_plan_is_written_before_anything_and_read_back_equal(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "results")
    folder.path.mkdir()
    assert folder.plan() is None
    folder.write_plan(plan(), {"A": "name: A\n"})
    found = folder.plan()
    assert found is not None and found.to_dict() == plan().to_dict()
    assert folder.policy_file("A").read_text(encoding="utf-8") == "name: A\n"
    assert found.runs == plan().runs


def test_the_same_plan_continues_whatever_the_command_said() -> None:
    there = plan()
    moved = replace(
        plan(), command="other words", versions={"torch": "3"}, start={"model": "elsewhere", "sha256": "abc"}
    )
    assert settle(there, moved, add=False) == there
    assert settle(there, plan("D", seeds=(2,)), add=False) == there, "a part of the plan may be asked for"


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"num_steps": 200}, "num_steps was 100, now 200"),
        ({"recipe": {"options": {"learning_rate": 2e-3}}}, r"recipe\.learning_rate was 0.001, now 0.002"),
        ({"recipe": {"options": {"learning_rate": 1e-3, "kl_coef": 0.1}}}, r"recipe\.kl_coef was None, now 0.1"),
        ({"start": {"sha256": "xyz"}}, r"start\.sha256 was 'abc', now 'xyz'"),
        ({"margin": {"metric": "win_rate", "value": 0.2}}, r"margin\.value was 0.05, now 0.2"),
        ({"judge": "gsm8k"}, "judge was None, now 'gsm8k'"),
        ({"threads": 4}, "threads was 2, now 4"),
    ],
)
def test_another_plan_is_refused_with_the_difference(changes: dict[str, Any], difference: str) -> None:
    with pytest.raises(ExperimentError, match=difference):
        settle(plan(), plan(**changes), add=True)


def test_another_policy_under_the_same_name_is_refused() -> None:
    other = plan(runs=(PlannedRun("D", "D", 1, "another sha"),))
    with pytest.raises(ExperimentError, match=r"run D seed 1\.policy_sha256"):
        settle(plan(), other, add=True)


def test_further_runs_are_added_only_when_that_is_asked() -> None:
    with pytest.raises(ExperimentError, match=r"does not hold C seed 1.*--add"):
        settle(plan(), plan("A", "C"), add=False)
    found = settle(plan(), plan("A", "C", seeds=(3,)), add=True)
    assert [str(run) for run in found.runs[4:]] == ["A seed 3", "C seed 3"]
    assert found.seeds == (1, 2, 3)


def test_folders_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ExperimentError, match=r"no plan of an experiment, but thesis\.tex"):
        ResultsFolder(tmp_path).plan()
    (tmp_path / "plan.json").write_text('{"version": 9}', encoding="utf-8")
    with pytest.raises(ExperimentError, match="version 9"):
        ResultsFolder(tmp_path).plan()
    (tmp_path / "plan.json").write_text('{"vers', encoding="utf-8")
    with pytest.raises(ExperimentError, match="cannot read the plan"):
        ResultsFolder(tmp_path).plan()


def test_a_name_twice_is_refused() -> None:
    with pytest.raises(ExperimentError, match="A seed 1 twice"):
        plan("A", "A")
