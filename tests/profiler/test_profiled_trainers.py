"""Trainers of both lines of TRL under the profiler, without MX: phases, layers, files; and runs that end badly."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("trl")

from transformers import TrainerCallback

from mx_trl import MXProfilerCallback
from mx_trl.profiler.errors import ProfilerError
from mx_trl.profiler.rows import ProfileRow, read_rows
from tests.trl.trainers import Workshop

from .traces import load, overlaps, phase_track, tracks

if TYPE_CHECKING:
    from mx_trl.embedded import EmbeddedFolder


@pytest.fixture
def workshop(embedded: EmbeddedFolder, tmp_path: Path) -> Workshop:
    return Workshop(embedded, tmp_path)


def rows_in(folder: Path) -> list[ProfileRow]:
    return list(read_rows(folder / "profile.csv"))


def summary_in(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "profile.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize(
    ("kind", "phases", "config"),
    [
        ("sft", {"gradient"}, {"gradient_accumulation_steps": 2}),
        ("dpo", {"reward", "gradient"}, {}),
        ("grpo", {"rollout", "gradient"}, {}),
    ],
)
def test_without_mx_every_trainer_shows_phases_layers_and_ranges(
    workshop: Workshop, kind: str, phases: set[str], config: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    profiler = MXProfilerCallback((0, 1, 1, 1))
    workshop.trainer(kind, [profiler], **config).train()
    folder = workshop.folder / "trainer" / "profile"
    assert profiler.profile_dir == folder
    rows = rows_in(folder)
    assert {row.phase for row in rows if row.is_phase} - {"other"} == phases
    layers = [row for row in rows if not row.is_phase]
    assert {row.phase for row in layers} == phases
    assert {row.step for row in layers} == {2}
    assert {row.format for row in layers} == {"FP16[float32]"}
    backward = [row for row in layers if row.direction == "backward" and row.layer.endswith("q_proj")]
    assert {(row.role, row.phase, row.calls) for row in backward} == {("policy", "gradient", 2 if kind == "sft" else 1)}
    events = load(folder / "trace_step2.json.gz")
    assert {r.name for r in phase_track(events)} == {"step 2", "other"} | phases
    assert all(overlaps(ranges) == [] for ranges in tracks(events).values())
    printed = capsys.readouterr().out
    assert "Profiled step 2" in printed and f"files in {folder}" in printed


class Fails(TrainerCallback):
    def on_substep_end(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("the power went")


def test_a_run_that_raises_leaves_files_that_can_be_read(workshop: Workshop) -> None:
    profiler = MXProfilerCallback((0, 0, 2, 1))
    trainer = workshop.trainer("sft", [profiler, Fails()], gradient_accumulation_steps=2)
    with pytest.raises(RuntimeError, match="the power went"):
        trainer.train()
    folder = workshop.folder / "trainer" / "profile"
    assert {row.phase for row in rows_in(folder)} == {"gradient", "other"}
    assert any(not row.is_phase for row in rows_in(folder))
    (window,) = summary_in(folder)["windows"]
    assert (window["first_step"], window["complete"]) == (1, False)
    assert {"step 1", "gradient"} <= {r.name for r in phase_track(load(folder / window["trace"]))}
    assert (folder / "flame.html").stat().st_size > 10_000
    assert not list(folder.glob(".*"))


def test_a_resumed_run_goes_on_with_its_profile_and_a_new_one_sets_it_aside(workshop: Workshop) -> None:
    save = {"save_strategy": "steps", "save_steps": 1, "max_steps": 3}
    workshop.trainer("sft", [MXProfilerCallback((0, 0, 1, 0), trace=False, flame=False)], **save).train()
    folder = workshop.folder / "trainer" / "profile"
    first = [row for row in rows_in(folder) if row.step == 1]
    again = workshop.trainer("sft", [MXProfilerCallback((1, 0, 1, 1), trace=False, flame=False)], **save)
    again.train(resume_from_checkpoint=str(workshop.folder / "trainer" / "checkpoint-1"))
    rows = rows_in(folder)
    assert [row for row in rows if row.step == 1] == first
    assert {row.step for row in rows if not row.is_phase} == {1, 3}
    assert [(w["first_step"], w["trace"]) for w in summary_in(folder)["windows"]] == [(1, None), (3, None)]
    assert sorted(row.step for row in rows if row.phase == "gradient" and row.is_phase) == [1, 2, 3]
    workshop.trainer("sft", [MXProfilerCallback((0, 0, 1, 1), trace=False, flame=False)], max_steps=1).train()
    assert rows_in(workshop.folder / "trainer" / "profile.1") == rows
    assert {row.step for row in rows_in(folder) if not row.is_phase} == {1}


def test_a_schedule_that_profiles_nothing_is_refused_before_training(workshop: Workshop) -> None:
    trainer = workshop.trainer("sft", [MXProfilerCallback((5, 0, 1, 1))])
    with pytest.raises(ProfilerError, match=r"comes after 5 .* but this run has 2 steps"):
        trainer.train()
    assert trainer.state.global_step == 0
    assert not (workshop.folder / "trainer" / "profile").exists()


def test_a_missing_pyinstrument_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyinstrument", None)
    with pytest.raises(ProfilerError, match=r"pip install 'mx-plugin\[profile\]'; or leave it out: .*flame=False"):
        MXProfilerCallback()
    MXProfilerCallback(flame=False)


@pytest.mark.parametrize("interval", [0, -1, 60])
def test_an_impossible_interval_is_refused(interval: float) -> None:
    with pytest.raises(ProfilerError, match="flame_interval"):
        MXProfilerCallback(flame_interval=interval)


def test_stages_do_not_import_the_profiler_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from mx_trl.errors import StageError
    from mx_trl.stages.arguments import SFTScriptArguments
    from mx_trl.stages.observing import observers_of

    for name in [name for name in sys.modules if name.startswith("mx_trl.profiler")]:
        monkeypatch.delitem(sys.modules, name)
    assert observers_of(SFTScriptArguments()) == []
    assert not any(name.startswith("mx_trl.profiler") for name in sys.modules)
    with pytest.raises(StageError, match="--profile is not given"):
        observers_of(SFTScriptArguments(profile_schedule=[1]))
    assert len(observers_of(SFTScriptArguments(profile=True, profile_schedule=[1, 1]))) == 1
