"""The results folder: what is in it, which runs are finished, and who may write to it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..atomic import write_atomically
from .errors import ExperimentError
from .plan import Plan, PlannedRun

log = logging.getLogger(__name__)

DONE = "done.json"
MODEL = "model"
_BLOCK = 1 << 20


class ResultsFolder:
    """``results/`` of one experiment. A run is written to ``runs/<name>/seed_<n>.part`` and renamed when it is whole.

    So a folder without ``.part`` is finished or not ours to trust: its ``done.json`` tells.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def plan_file(self) -> Path:
        return self.path / "plan.json"

    @property
    def start(self) -> Path:
        """What belongs to the model before training."""
        return self.path / "start"

    def policy_file(self, name: str) -> Path:
        """``policies/<name>.yaml``."""
        return self.path / "policies" / f"{name}.yaml"

    def run(self, run: PlannedRun) -> Path:
        """Where the finished run's files are."""
        return self.path / "runs" / run.name / f"seed_{run.seed}"

    def part(self, run: PlannedRun) -> Path:
        """Where the run is being written."""
        return self.run(run).with_name(f"seed_{run.seed}.part")

    # ---------------------------------------------------------------- the plan

    def plan(self) -> Plan | None:
        """The plan, or None in a new or empty folder.

        Raises:
            ExperimentError: a plan that cannot be read; a folder that holds something else.
        """
        if self.plan_file.exists():
            return Plan.read(self.plan_file)
        if self.path.exists() and not self.path.is_dir():
            raise ExperimentError(f"{self.path} is not a folder; choose another --output")
        names = {entry.name for entry in self.path.iterdir()} if self.path.is_dir() else set()
        held = {name for name in names if not name.startswith(".")} - {"start", "policies"}  # written before the plan
        if held:
            raise ExperimentError(
                f"{self.path} holds no plan of an experiment, but {', '.join(sorted(held)[:5])}: choose a new --output"
            )
        return None

    def write_plan(self, plan: Plan, policies: Mapping[str, str]) -> None:
        """Write the YAML of every policy that is not there yet, then ``plan.json``, which makes them count.

        Raises:
            ExperimentError: the folder cannot be written.
        """
        try:
            for name, text in policies.items():
                file = self.policy_file(name)
                file.parent.mkdir(parents=True, exist_ok=True)
                if not file.exists() or file.read_text(encoding="utf-8") != text:
                    write_atomically(file, text)
            write_atomically(self.plan_file, json.dumps(plan.to_dict(), indent=2, ensure_ascii=False) + "\n")
        except OSError as error:
            raise ExperimentError(f"cannot write {error.filename or self.path}: {error.strerror or error}") from error

    # ---------------------------------------------------------------- runs

    def is_done(self, run: PlannedRun) -> bool:
        """Whether the run is finished and its files are what its ``done.json`` says."""
        return why_not_done(self.run(run)) == ""

    def begin(self, run: PlannedRun) -> Path:
        """An empty folder to write the run to. What an interrupted run left is removed; what claims to be a run, but
        is not whole, is set aside under another name."""
        final, part = self.run(run), self.part(run)
        try:
            if final.exists():
                aside = _free_name(final)
                log.warning("%s: %s; set aside as %s, the run is made again", final, why_not_done(final), aside.name)
                final.rename(aside)
            if part.exists():
                shutil.rmtree(part)
            part.mkdir(parents=True)
        except OSError as error:
            raise ExperimentError(f"cannot write {error.filename or part}: {error.strerror or error}") from error
        return part

    def finish(self, run: PlannedRun) -> Path:
        """The run's process has written everything, ``done.json`` last: give the folder its name.

        Raises:
            ExperimentError: it has not.
        """
        part = self.part(run)
        reason = why_not_done(part)
        if reason:
            raise ExperimentError(f"{part}: {reason}")
        part.rename(self.run(run))
        return self.run(run)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only one that writes here; the system lets go when the process ends, however it ends.

        Raises:
            ExperimentError: another process does, or the folder cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / ".lock").open("a+")
        except OSError as error:
            raise ExperimentError(
                f"cannot write to {self.path}: {error.strerror or error}; choose another --output"
            ) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ExperimentError(
                    f"another process is running the experiment in {self.path}; wait for it"
                ) from None
            yield


def write_done(folder: Path, *, seconds: float, steps: int, **further: Any) -> None:
    """Write ``done.json``, last of a run's files: every other file's SHA-256, ``run.log`` excepted."""
    files = {
        str(file.relative_to(folder)): sha256_of(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name not in (DONE, "run.log")
    }
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    record = {"seconds": seconds, "steps": steps, "finished": finished, **further, "files": files}
    write_atomically(folder / DONE, json.dumps(record, indent=2) + "\n")


def why_not_done(folder: Path) -> str:
    """Empty for a whole run; else why not. Only the model may have been removed since (``--keep_models none``)."""
    if not folder.is_dir():
        return "there is no such folder"
    try:
        record = json.loads((folder / DONE).read_text(encoding="utf-8"))
        files: Mapping[str, str] = record["files"]
        kept_model = (folder / MODEL).exists()
        for name, digest in files.items():
            if name.startswith(f"{MODEL}/") and not kept_model:
                continue
            if not (folder / name).is_file():
                return f"{name} is missing"
            if sha256_of(folder / name) != digest:
                return f"{name} is not what {DONE} says"
    except FileNotFoundError:
        return f"it has no {DONE}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its {DONE} cannot be read ({error})"
    return ""


def sha256_of(file: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _free_name(path: Path) -> Path:
    number = 1
    while path.with_name(f"{path.name}.untrusted.{number}").exists():
        number += 1
    return path.with_name(f"{path.name}.untrusted.{number}")
