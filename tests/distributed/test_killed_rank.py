"""kill -9 of a rank in mid-run: a clear error, readable files, no orphans."""

from __future__ import annotations

import csv
import os
import signal
import time
from pathlib import Path

import pytest

pytest.importorskip("trl")

from mx_trl.embedded import build
from tests.distributed.launch import left_after, started


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_killed_rank_ends_the_run(rank: int, tmp_path: Path) -> None:
    build(tmp_path / "embedded")
    run = {"name": "killed", "kind": "sft", "policy": "C8", "settings": {"max_steps": 5000}}
    job = {"ranks": 2, "folder": str(tmp_path), "embedded": str(tmp_path / "embedded"), "runs": [run]}
    energy = tmp_path / "killed" / "mx" / "policy_C8" / "energy.csv"
    with started(job, tmp_path / "job.json") as ranks:
        until = time.monotonic() + 400
        while not (energy.is_file() and energy.read_text().count("\n") > 6):
            assert ranks.process.poll() is None and time.monotonic() < until, ranks.output()[-3000:]
            time.sleep(0.2)
        os.kill(ranks.rank(rank), signal.SIGKILL)
        assert ranks.wait(120) != 0
        assert not left_after(ranks, 10)
        assert "SIGKILL" in ranks.output()  # torchrun's own report of the first failure
    for name in ("energy.csv", "ranks.csv"):
        with energy.with_name(name).open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
        assert rows and all(None not in row and None not in row.values() for row in rows)
