"""kill -9 at any moment of a profile, start again: the same final files as an unbroken run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sensitivity.resuming import PARTIAL, files, lines_in

REPOSITORY = Path(__file__).parents[2]

KILLED = -signal.SIGKILL


class Profiles:
    """Profiles in processes of their own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def start(self, folder: Path, event: str = "", count: int = 0) -> int:
        assert self.process.stdin is not None
        job = {"folder": str(folder), "event": event, "count": count}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def end(self) -> int:
        return self._answer()

    def run(self, folder: Path, event: str = "", count: int = 0) -> int:
        self.start(folder, event, count)
        return self.end()

    def _answer(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def profiles() -> Iterator[Profiles]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.sensitivity.dying"], env=environment, cwd=REPOSITORY, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        yield Profiles(process)
        assert process.stdin is not None
        process.stdin.close()


def test_killed_at_each_stage_it_ends_in_the_same_files(
    tmp_path: Path, profiles: Profiles, unbroken: dict[str, bytes]
) -> None:
    # In turn: before the first measurement is safe, in rollout, at its end, in gradient, in the estimate's stead, ...
    for event, count in [("fsync", 1), ("step", 1), ("fsync", 9), ("step", 30), ("step", 45), ("step", 58)]:
        assert profiles.run(tmp_path, event, count) == KILLED, (event, count)
        assert sorted(files(tmp_path)) == [PARTIAL], (event, count)
    # ... and when everything is measured: before the facts are there, before the matrix is, before tidying up.
    for event, count, left in [
        ("replace", 1, ["matrix.csv.partial", "matrix.json.new"]),
        ("replace", 2, ["matrix.csv.new", "matrix.csv.partial", "matrix.json"]),
        ("unlink", 1, ["matrix.csv", "matrix.csv.partial", "matrix.json"]),
    ]:
        assert profiles.run(tmp_path, event, count) == KILLED, (event, count)
        assert sorted(files(tmp_path)) == left
    assert profiles.run(tmp_path) == 0
    assert files(tmp_path) == unbroken


def test_killed_from_outside_whenever_it_happens_to_be(
    tmp_path: Path, profiles: Profiles, unbroken: dict[str, bytes]
) -> None:
    for lines in (4, 20, 50):
        pid = profiles.start(tmp_path)
        while lines_in(tmp_path / PARTIAL) < lines:
            time.sleep(0.001)
        os.kill(pid, signal.SIGKILL)
        assert profiles.end() == KILLED
        assert sorted(files(tmp_path)) == [PARTIAL]
    assert profiles.run(tmp_path) == 0
    assert files(tmp_path) == unbroken
