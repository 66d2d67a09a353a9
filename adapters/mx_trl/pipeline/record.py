"""``pipeline.json``: what became of each stage, and who may write to the pipeline's folder."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mx_plugin.atomic import write_atomically

from ..errors import StageError
from .plan import PipelinePlan, PlannedStage

FILE = "pipeline.json"
DONE, FAILED, STOPPED, RUNNING = "done", "failed", "stopped", "running"


@dataclass
class StageRecord:
    """``status`` is ``running`` (or interrupted), ``done``, ``failed`` or ``stopped`` (early, with a checkpoint).

    ``fingerprint``: of the options that it was done with. ``seconds``: wall time of all its processes. ``result``: what
    the stage said of itself at its end.
    """

    status: str
    fingerprint: str
    seconds: float = 0.0
    result: dict[str, Any] = field(default_factory=dict)


class Records:
    """The records of a pipeline's stages, kept in ``<output_dir>/pipeline.json``."""

    def __init__(self, plan: PipelinePlan) -> None:
        self.plan = plan
        self.file = plan.output_dir / FILE
        self.by_name = self._read()

    def is_done(self, stage: PlannedStage) -> bool:
        """Whether the stage ended with these options, and its model is still there."""
        record = self.by_name.get(stage.name)
        return (
            record is not None
            and record.status == DONE
            and record.fingerprint == self.plan.fingerprints[stage.name]
            and (self.plan.final(stage.name) / "config.json").is_file()
        )

    def may_resume(self, stage: PlannedStage) -> bool:
        """Whether checkpoints in its folder are of these options and the stage never ended."""
        record = self.by_name.get(stage.name)
        same = record is not None and record.fingerprint == self.plan.fingerprints[stage.name]
        return same and record is not None and record.status != DONE

    def begin(self, stage: PlannedStage) -> StageRecord:
        """A record of the stage's next process; the time of what it goes on from counts.

        Stages that read its model are forgotten: what they did, checkpoints too, began from another model.
        """
        before = self.by_name[stage.name].seconds if self.may_resume(stage) else 0.0
        stale = {stage.name}
        for later in self.plan.stages:
            if stale & {later.model, later.reward}:
                stale.add(later.name)
                self.by_name.pop(later.name, None)
        return self.note(stage, StageRecord(RUNNING, self.plan.fingerprints[stage.name], before))

    def note(self, stage: PlannedStage, record: StageRecord) -> StageRecord:
        """Keep it.

        Raises:
            StageError: the file cannot be written.
        """
        self.by_name[stage.name] = record
        said = {"stages": {name: asdict(one) for name, one in self.by_name.items()}}
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.file, json.dumps(said, indent=2) + "\n")
        except OSError as error:
            raise StageError(f"cannot write {self.file}: {error}") from error
        return record

    def _read(self) -> dict[str, StageRecord]:
        try:
            data = json.loads(self.file.read_text(encoding="utf-8"))
            return {name: StageRecord(**record) for name, record in data["stages"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StageError(f"{self.file} cannot be read ({error}): mend or remove it, or use --restart") from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only pipeline that writes to ``folder``; the system lets go when the process ends.

    Raises:
        StageError: another one does, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a+")
    except OSError as error:
        raise StageError(f"cannot write to {folder}: {error}; choose another --output_dir") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StageError(f"another process is running the pipeline in {folder}; wait for it") from None
        yield
