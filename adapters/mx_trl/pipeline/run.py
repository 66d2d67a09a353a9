"""Runs the stages of a plan one after the other, each in a process of its own."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from mx_plugin.atomic import write_atomically
from mx_plugin.experiments.executor import Executor, Job, LocalExecutor, Watch

from ..checkpoints.files import RunFiles
from ..errors import StageError
from .plan import PipelinePlan, PlannedStage
from .record import DONE, FAILED, STOPPED, Records, StageRecord
from .table import table
from .ticker import Ticker

REQUEST, RESULT = "request.json", "result.json"
_TAIL_LINES = 15


def run_pipeline(
    plan: PipelinePlan, *, max_minutes: float | None = None, restart: bool = False, out: TextIO | None = None,
    executor: Executor | None = None,
) -> Records:  # fmt: skip
    """Run what is not done yet; stop at the first stage that fails, or when the time is up.

    Args:
        max_minutes: for all stages together; instead of the plan's.
        restart: do finished stages again.
        out: where progress and the table go; default standard output.
        executor: runs the stages' processes; default on this machine.

    Returns:
        the records of all stages, as ``pipeline.json`` holds them.

    Raises:
        StageError: a stage failed (the message ends with the last lines of its log), or nothing can be written.
    """
    out = out or sys.stdout
    if restart:
        (plan.output_dir / "pipeline.json").unlink(missing_ok=True)
    records = Records(plan)
    minutes = max_minutes if max_minutes is not None else plan.max_minutes
    deadline = None if minutes is None else time.time() + 60 * minutes
    failed = None
    for number, stage in enumerate(plan.stages, start=1):
        title = f"[{number}/{len(plan.stages)}] {stage.name}"
        if records.is_done(stage):
            print(f"{title}: done already", file=out, flush=True)
            continue
        if deadline is not None and time.time() >= deadline:
            print(f"{title}: not begun, the {minutes:g} minutes are over", file=out, flush=True)
            break
        resume = records.may_resume(stage)
        request = _request(plan, stage, resume, deadline)
        print(f"{title}: {_what(plan, stage)}; log in {_log(plan, stage)}", file=out, flush=True)
        if not resume:
            RunFiles(plan.folder(stage.name)).set_aside()  # before the record says that checkpoints here are its own
        record = records.begin(stage)
        ticker = Ticker(title, plan.folder(stage.name), out)
        _run(plan, stage, record, request, executor or LocalExecutor(1), ticker)
        ticker.clear()
        records.note(stage, record)
        if record.status == STOPPED:
            print(f"{title}: stopped by {record.result['stopped_by']}, with a checkpoint", file=out, flush=True)
            break
        if record.status == FAILED:
            failed = stage
            break
    print(f"\n{table(plan, records)}", file=out, flush=True)
    if failed is not None:
        log = _log(plan, failed)
        raise StageError(
            f"stage {failed.name!r} failed; the same command takes the pipeline up there. "
            f"The end of {log}:\n{_tail(log)}"
        )
    return records


def _run(
    plan: PipelinePlan, stage: PlannedStage, record: StageRecord, request: Path, executor: Executor, ticker: Watch
) -> None:
    """Run the stage's process, and note in its record what became of it."""
    command = [*(plan.launch or (sys.executable,)), "-m", "mx_trl.pipeline.process", str(request)]
    [outcome] = list(executor.execute([Job(stage.name, command, _log(plan, stage))], ticker))
    record.seconds += round(outcome.seconds, 1)
    record.result = _result(plan.folder(stage.name))
    if outcome.status != 0 or not record.result:
        record.status = FAILED
    else:
        record.status = DONE if record.result["stopped_by"] is None else STOPPED


def _request(plan: PipelinePlan, stage: PlannedStage, resume: bool, deadline: float | None) -> Path:
    """Write what the stage's process is told; an earlier result goes."""
    folder = plan.folder(stage.name)
    request = folder / REQUEST
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RESULT).unlink(missing_ok=True)
        write_atomically(request, json.dumps(request_of(plan, stage, resume, deadline), indent=2) + "\n")
    except OSError as error:
        raise StageError(f"cannot write to {folder}: {error}") from error
    return request


def request_of(plan: PipelinePlan, stage: PlannedStage, resume: bool, deadline: float | None) -> dict[str, Any]:
    """What the stage's process is told: its options, with the models that earlier stages left."""
    options = dict(stage.options)
    if stage.model is not None:
        options["model_name_or_path"] = str(plan.final(stage.model))
    if stage.reward is not None:
        options |= {"reward": "model", "reward_model_path": str(plan.final(stage.reward))}
    return {
        "kind": stage.kind,
        "options": options,
        "output_dir": str(plan.folder(stage.name)),
        "embedded": str(plan.output_dir / "embedded") if plan.embedded else None,
        "resume": resume,
        "deadline": deadline,
    }


def _what(plan: PipelinePlan, stage: PlannedStage) -> str:
    start = stage.model or stage.options.get("model_name_or_path") or stage.options.get("sft_model_path") or "embedded"
    reward = f", reward from {stage.reward}" if stage.reward else ""
    return f"{stage.kind} from {start}{reward}"


def _log(plan: PipelinePlan, stage: PlannedStage) -> Path:
    return plan.folder(stage.name) / "run.log"


def _result(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").splitlines()
    return "\n".join([line for line in lines if line.strip()][-_TAIL_LINES:])
