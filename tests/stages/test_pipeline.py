"""Stages in a row: each reads the last one's model, what is done is not done again, and time limits end it cleanly."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

pytest.importorskip("trl")

from mx_plugin.experiments.executor import Job, Outcome, Watch
from mx_trl.errors import StageError
from mx_trl.pipeline.plan import PipelinePlan, read_plan
from mx_trl.pipeline.process import RESULT, run_stage
from mx_trl.pipeline.record import DONE, Records, StageRecord, locked
from mx_trl.pipeline.run import run_pipeline
from mx_trl.pipeline.ticker import Ticker, last_step

from .conftest import SMALL

if TYPE_CHECKING:
    from mx_trl.embedded import EmbeddedFolder


class InThisProcess:
    """Runs each stage as its process would, without paying for the imports again."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def execute(self, jobs: Iterable[Job], watch: Watch) -> Iterator[Outcome]:
        for job in jobs:
            self.ran.append(job.name)
            request = json.loads(Path(job.command[-1]).read_text())
            status = 0
            with job.log.open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                try:
                    result = run_stage(request)
                    (Path(request["output_dir"]) / RESULT).write_text(json.dumps(result))
                except SystemExit as stopped:
                    status = int(stopped.code or 0)
            yield Outcome(job, status, 1.0)


@pytest.fixture
def plan(tmp_path: Path, embedded: EmbeddedFolder) -> Callable[..., PipelinePlan]:
    """``plan({"stage": "sft", "options": {...}}, ...)``: on the embedded model and 8 of its examples."""
    data = {"sft": embedded.dialogues, "reward": embedded.pairs, "dpo": embedded.pairs}

    def make(*stages: dict[str, Any], **further: Any) -> PipelinePlan:
        for stage in stages:
            stage.setdefault("options", {}).setdefault("dataset_name", str(data[stage["stage"]]))
        stages[0]["options"].setdefault("model_name_or_path", str(embedded.policy))
        common = {**SMALL, "num_examples": 8, "max_steps": 1, "policy": "C8"}
        file = tmp_path / "pipeline.yaml"
        said = {"output_dir": str(tmp_path / "out"), "common": common, "stages": list(stages), **further}
        file.write_text(yaml.safe_dump(said), encoding="utf-8")
        return read_plan(file)

    return make


def run(plan: PipelinePlan, **options: Any) -> tuple[list[str], str]:
    """Which stages ran, and what was printed."""
    executor, out = InThisProcess(), io.StringIO()
    run_pipeline(plan, executor=executor, out=out, **options)
    return executor.ran, out.getvalue()


def test_every_stage_reads_the_last_ones_model_and_the_next_run_begins_where_this_one_failed(
    plan: Callable[..., PipelinePlan], tmp_path: Path
) -> None:
    stages = [{"stage": "sft"}, {"stage": "reward"}, {"stage": "dpo", "options": {"num_eval_examples": 8}}]
    out, executor = io.StringIO(), InThisProcess()
    with pytest.raises(StageError, match=r"stage 'dpo' failed(.|\n)*run\.log:(.|\n)*error: 8 examples without the 8"):
        run_pipeline(plan(*stages), executor=executor, out=out)
    assert executor.ran == ["sft", "reward", "dpo"]
    assert "reward  done    C8      1" in out.getvalue() and "dpo     failed" in out.getvalue()

    stages[2]["options"]["num_eval_examples"] = 0
    ran, said = run(plan(*stages))
    assert ran == ["dpo"] and "dpo     done    C8      1" in said
    for name in ("reward", "dpo"):
        config = json.loads((tmp_path / "out" / name / "config.json").read_text())
        assert config["model"]["model_name_or_path"] == str(tmp_path / "out" / "sft" / "checkpoints" / "final")
    ran, said = run(plan(*stages))
    assert ran == [] and "[3/3] dpo: done already" in said


def test_a_time_limit_ends_with_a_checkpoint_from_which_the_next_run_goes_on(
    plan: Callable[..., PipelinePlan], tmp_path: Path
) -> None:
    sft = {"stage": "sft", "options": {"max_steps": 20, "save_strategy": "steps", "save_steps": 100}}
    # Over before the model is loaded, but not before the stage begins.
    ran, said = run(plan(sft, {"stage": "dpo"}), max_minutes=0.0005)
    assert ran == ["sft"] and "stopped by --max_minutes, with a checkpoint" in said
    assert "dpo    not begun" in said
    [checkpoint] = (tmp_path / "out" / "sft" / "checkpoints").glob("checkpoint-*")
    assert not (checkpoint.parent / "final").exists()
    ran, said = run(plan(sft))
    assert ran == ["sft"] and "done    C8      20" in said
    config = json.loads((tmp_path / "out" / "sft" / "config.json").read_text())
    assert config["resumed_from"] == str(checkpoint)


def test_an_alert_that_stops_a_stage_stops_the_pipeline_and_is_named(
    plan: Callable[..., PipelinePlan], tmp_path: Path
) -> None:
    rules = tmp_path / "alerts.yaml"
    rule = {"name": "enough", "metric": "loss", "above": 0, "after_step": 2, "action": "stop"}
    rules.write_text(yaml.safe_dump({"version": 1, "defaults": False, "rules": [rule]}))
    sft = {"stage": "sft", "options": {"max_steps": 4, "alerts": str(rules)}}
    ran, said = run(plan(sft, {"stage": "dpo"}))
    assert ran == ["sft"] and "stopped by alert enough, with a checkpoint" in said


def test_checkpoints_of_other_options_are_set_aside_before_the_stage_is_noted(
    plan: Callable[..., PipelinePlan], tmp_path: Path
) -> None:
    """A process that dies before it begins must not leave them to the next one, as its own."""
    planned = plan({"stage": "sft"})
    claim_done(planned, "sft")
    checkpoint = planned.folder("sft") / "checkpoints" / "checkpoint-1"
    checkpoint.mkdir()
    (checkpoint / "trainer_state.json").write_text("{}")

    class Dies:
        def execute(self, jobs: Iterable[Job], watch: Watch) -> Iterator[Outcome]:
            for job in jobs:
                job.log.write_text("killed")
                yield Outcome(job, 1, 1.0)

    with pytest.raises(StageError, match="failed"):
        run_pipeline(planned, executor=Dies(), out=io.StringIO(), restart=True)
    assert Records(planned).may_resume(planned.stages[0])
    assert not checkpoint.exists() and (planned.folder("sft") / "checkpoints.1" / "checkpoint-1").is_dir()


def claim_done(plan: PipelinePlan, *names: str) -> Records:
    """Records of stages as if they had ended, each with a model."""
    records = Records(plan)
    for stage in plan.stages:
        if stage.name in names:
            plan.final(stage.name).mkdir(parents=True, exist_ok=True)
            (plan.final(stage.name) / "config.json").write_text("{}")
            result = {"policy": "C8", "steps": 1, "stopped_by": None, "measure": "loss", "first": 1.0, "last": 0.5}
            records.note(stage, StageRecord(DONE, plan.fingerprints[stage.name], 60.0, {**result, "held_out": None}))
    return records


def test_other_options_or_a_lost_model_and_the_stage_is_done_again_with_those_that_read_it(
    plan: Callable[..., PipelinePlan], tmp_path: Path
) -> None:
    stages = [{"stage": "sft"}, {"stage": "reward"}, {"stage": "dpo"}]
    claim_done(planned := plan(*stages), "sft", "reward", "dpo")
    assert all(Records(planned).is_done(stage) for stage in planned.stages)

    stages[1]["options"]["learning_rate"] = 2e-3
    changed = plan(*stages)
    assert [Records(changed).is_done(stage) for stage in changed.stages] == [True, False, True]
    assert not Records(changed).may_resume(changed.stages[1])

    (planned.final("sft") / "config.json").unlink()
    records = Records(planned)
    assert [records.is_done(stage) for stage in planned.stages] == [False, True, True]
    records.begin(planned.stages[0])
    assert set(Records(planned).by_name) == {"sft"}, "what the others did began from a model that will be replaced"


def test_an_interrupted_stage_may_be_resumed_and_its_time_counts(
    plan: Callable[..., PipelinePlan], tmp_path: Path
) -> None:
    planned = plan({"stage": "sft"})
    records = claim_done(planned)
    record = records.begin(planned.stages[0])
    assert record.status == "running" and record.seconds == 0.0
    record.seconds = 30.0
    records.note(planned.stages[0], record)
    again = Records(planned)
    assert again.may_resume(planned.stages[0]) and again.begin(planned.stages[0]).seconds == 30.0


def test_restart_does_finished_stages_again(plan: Callable[..., PipelinePlan]) -> None:
    planned = plan({"stage": "sft", "options": {"num_eval_examples": 8}})
    claim_done(planned, "sft")
    assert run(planned)[0] == []
    with pytest.raises(StageError, match="stage 'sft' failed"):
        run(planned, restart=True)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_one_line_is_redrawn_with_the_step_that_was_logged_last(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "train.jsonl").write_text('{"step": 1}\n{"step": 2, "loss": 0.5}\n{"step": 3, "lo')
    job = Job("sft", [], tmp_path / "run.log")
    terminal, file = Terminal(), io.StringIO()
    for out in (terminal, file):
        ticker = Ticker("[1/1] sft", tmp_path, out)
        for seconds in (0.2, 0.4, 1.3):
            ticker([(job, seconds)])
        ticker.clear()
    assert terminal.getvalue().count("[1/1] sft: ") == 2 and "[1/1] sft: 1 s, step 2" in terminal.getvalue()
    assert file.getvalue() == ""
    assert last_step(tmp_path / "none.jsonl") is None


def test_one_pipeline_at_a_time_writes_to_a_folder(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(StageError, match="another process is running"), locked(tmp_path):
        pass


def test_a_record_that_cannot_be_read_is_named(plan: Callable[..., PipelinePlan], tmp_path: Path) -> None:
    planned = plan({"stage": "sft"})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "pipeline.json").write_text('{"stages": {"sft": ')
    with pytest.raises(StageError, match=r"pipeline\.json cannot be read .*or use --restart"):
        run(planned)


@pytest.mark.slow
def test_the_example_runs_in_processes_and_continues_after_a_kill(repository: Path, tmp_path: Path) -> None:
    """The whole command: SFT, reward model and PPO (GRPO where TRL has no PPO), killed in the second stage."""
    example = yaml.safe_load((repository / "examples" / "configs" / "pipeline.yaml").read_text())
    example["common"] |= {"max_steps": 2, "save_steps": 1, "use_cpu": True}
    few = {"num_examples": 16}
    example["stages"] = [{"stage": "sft", "options": few}, {"stage": "reward", "options": few}, last_stage()]
    file = tmp_path / "pipeline.yaml"
    file.write_text(yaml.safe_dump(example), encoding="utf-8")
    command = [sys.executable, "-m", "mx_plugin", "pipeline", str(file), "--output_dir", str(tmp_path / "out")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("[2/3]"):
                process.kill()
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "[1/3] sft: done already" in done.stdout and done.stdout.count(" done    C8") == 3
    for name in ("sft", "reward", example["stages"][2]["stage"]):
        assert (tmp_path / "out" / name / "checkpoints" / "final" / "model.safetensors").is_file()


def last_stage() -> dict[str, Any]:
    """PPO, or GRPO on a TRL without it; neither knows num_examples."""
    from importlib.metadata import version

    if int(version("trl").split(".")[1]) < 13:
        return {"stage": "ppo", "options": {"response_length": 8, "num_ppo_epochs": 1}}
    return {"stage": "grpo", "options": {"max_completion_length": 8, "num_generations": 2}}
