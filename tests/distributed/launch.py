"""Start ranks by torchrun on a free port, with a time limit, and leave no process behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("worker.py")
REPOSITORY = WORKER.parents[2]
_MARK = "MX_TEST_RANKS"


@dataclass
class Ranks:
    """A torchrun in progress, its output in ``log``. ``mark`` stands in the environment of all it started."""

    process: subprocess.Popen[bytes]
    log: Path
    mark: str

    def wait(self, seconds: float) -> int:
        """Its exit status.

        Raises:
            AssertionError: it runs after ``seconds``; what it wrote so far is in the message.
        """
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"torchrun still runs after {seconds} s:\n{self.output()[-6000:]}") from None

    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def processes(self) -> dict[int, str]:
        """Ids and command lines of every live process that it, or what it started, started."""
        found = {}
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                if f"{_MARK}={self.mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:  # ended while we looked, or another user's
                continue
        return found

    def rank(self, rank: int) -> int:
        """The process id of a rank."""
        wanted = f"RANK={rank}".encode()
        for pid, line in self.processes().items():
            if "torch.distributed.run" in line or str(WORKER) not in line:
                continue
            if wanted in (Path("/proc") / str(pid) / "environ").read_bytes().split(b"\0"):
                return pid
        raise AssertionError(f"no process of rank {rank}: {self.processes()}")


@contextmanager
def started(job: dict[str, Any], file: Path, *, script: Path = WORKER) -> Iterator[Ranks]:
    """``script`` on ``job["ranks"]`` ranks; everything that it started is dead afterwards, whatever happens."""
    file.write_text(json.dumps(job), encoding="utf-8")
    count = str(job["ranks"])
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", count]
    mark = uuid.uuid4().hex
    log = file.with_suffix(".log")
    environment = {
        **os.environ, _MARK: mark, "OMP_NUM_THREADS": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "", **job.get("environment", {}),
    }  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*words, str(script), str(REPOSITORY), str(file)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
        )  # fmt: skip
        ranks = Ranks(process, log, mark)
        try:
            yield ranks
        finally:
            # Ranks are sessions of their own: killing torchrun's group would leave them.
            for pid in ranks.processes():
                _kill(pid)
            process.wait(30)


def run_ranks(
    job: dict[str, Any], file: Path, *, seconds: float = 500, script: Path = WORKER
) -> dict[str, list[dict[str, Any]]]:
    """Run the job to its end: what each rank saw of each run, by the run's name."""
    with started(job, file, script=script) as ranks:
        status = ranks.wait(seconds)
        assert status == 0, ranks.output()[-6000:]
        assert not left_after(ranks, 5), "processes left behind"
    found = {}
    for run in job["runs"]:
        folder = Path(job["folder"]) / run["name"]
        found[run["name"]] = [json.loads((folder / f"rank{r}.json").read_text()) for r in range(job["ranks"])]
        assert [seen["world"] for seen in found[run["name"]]] == [job["ranks"]] * job["ranks"]
    return found


def left_after(ranks: Ranks, seconds: float) -> dict[int, str]:
    """Processes that still live after up to ``seconds``."""
    until = time.monotonic() + seconds
    while ranks.processes() and time.monotonic() < until:
        time.sleep(0.1)
    return ranks.processes()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
