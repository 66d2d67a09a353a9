"""Files that a run goes on with, and what a dashboard reads of them while they are written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mx_plugin.errors import LedgerError, MXError
from mx_trl.dashboard.feed import Feed, find_runs
from mx_trl.dashboard.files import ALERTS, STABILITY, StabilityFiles, resume
from mx_trl.dashboard.watch import Alert

Lines = Callable[[Path, str], list[dict[str, Any]]]
ALERT = Alert(2, "kl", "kl_per_token", "error", "too far", 3.0, 2.0)


class Tracked:
    """A run as Trackio's: what it was told."""

    def __init__(self, name: str) -> None:
        self.name, self.points, self.alerts = name, [], []  # type: ignore[var-annotated]

    def log(self, metrics: dict[str, Any], step: int | None = None) -> None:
        self.points.append((step, metrics))

    def alert(self, title: str, text: str | None = None, level: Any = None, step: int | None = None) -> None:
        self.alerts.append((step, title, level))


@pytest.fixture
def feeding(tmp_path: Path) -> tuple[Feed, list[Tracked]]:
    begun: list[Tracked] = []

    def begin(name: str) -> Tracked:
        begun.append(Tracked(name))
        return begun[-1]

    return Feed(tmp_path, begin, {"error": "E", "warning": "W", "info": "I"}), begun


def line(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as opened:
        opened.write(text)


def test_a_new_run_sets_the_old_one_aside_and_a_resumed_one_goes_on(tmp_path: Path, lines_of: Lines) -> None:
    files = StabilityFiles(tmp_path)
    for step in (1, 2, 3):
        files.write({"step": step, "kl": float("nan")})
    files.write_alert(ALERT)
    files.close()
    again = StabilityFiles(tmp_path, resume_step=2)
    assert [record["step"] for record in again.records()] == [1, 2]
    assert again.records()[0]["kl"] is None
    again.close()
    StabilityFiles(tmp_path).close()
    assert (tmp_path / STABILITY).read_text() == (tmp_path / ALERTS).read_text() == ""
    assert [record["step"] for record in lines_of(tmp_path, f"{STABILITY}.1")] == [1, 2]
    assert lines_of(tmp_path, f"{ALERTS}.1")[0]["rule"] == "kl"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(LedgerError, match="taken"):
        StabilityFiles(tmp_path / "taken")


def test_nothing_paused_is_said(tmp_path: Path) -> None:
    from argparse import Namespace

    from mx_trl.dashboard.command import run

    assert resume(tmp_path) == []
    with pytest.raises(MXError, match="is paused"):
        run(Namespace(folder=str(tmp_path), resume=True, html=None, port=None, poll=1.0))
    with pytest.raises(MXError, match="is not a folder"):
        run(Namespace(folder=str(tmp_path / "none"), resume=False, html=None, port=None, poll=1.0))


def test_each_line_is_handed_over_once_and_only_when_it_is_whole(
    tmp_path: Path, feeding: tuple[Feed, list[Tracked]]
) -> None:
    feed, begun = feeding
    assert feed.poll() == 0 and begun == []
    file = tmp_path / "policy_C" / STABILITY
    line(file, '{"step": 1, "time": 5, "kl": 0.5, "entropy": null}\n{"step": 2, "kl"')
    assert feed.poll() == 1
    line(file, ': 0.7}\nnonsense\n{"step": 3, "kl": 0.9}\n')
    line(tmp_path / "policy_C" / ALERTS, json.dumps(ALERT.record()) + "\n")
    assert feed.poll() == 3
    assert feed.poll() == 0
    [run] = begun
    assert run.name == "policy_C"
    assert run.points == [(1, {"kl": 0.5}), (2, {"kl": 0.7}), (3, {"kl": 0.9}), (2, {"alerts/kl": 1})]
    assert run.alerts == [(2, "kl", "E")]


def test_a_run_begun_anew_or_resumed_is_another_line(tmp_path: Path, feeding: tuple[Feed, list[Tracked]]) -> None:
    feed, begun = feeding
    files = StabilityFiles(tmp_path)
    for step in (1, 2, 3):
        files.write({"step": step, "kl": 1.0})
    files.close()
    feed.poll()
    StabilityFiles(tmp_path, resume_step=2).write({"step": 3, "kl": 2.0})
    feed.poll()
    assert [run.name for run in begun] == [tmp_path.name, f"{tmp_path.name} (2)"]
    assert begun[1].points == [(1, {"kl": 1.0}), (2, {"kl": 1.0}), (3, {"kl": 2.0})]


def test_runs_without_the_callback_are_shown_by_their_logs(tmp_path: Path, feeding: tuple[Feed, list[Tracked]]) -> None:
    line(tmp_path / "ppo" / "policy_A" / "metrics.jsonl", '{"step": 1, "objective/kl": 2.0, "eps": 4}\n')
    line(tmp_path / "ppo" / "logs" / "train.jsonl", '{"step": 1, "objective/kl": 2.0}\n')
    line(tmp_path / "sft" / "logs" / "train.jsonl", '{"step": 1, "loss": 2.5}\n')
    line(tmp_path / "sft" / "policy_A.1" / STABILITY, '{"step": 1, "kl": 2.5}\n')
    (tmp_path / "sft" / "policy_A").mkdir()
    line(tmp_path / "sft" / "checkpoints" / "x" / STABILITY, '{"step": 1, "kl": 2.5}\n')
    feed, begun = feeding
    feed.poll()
    assert {run.name: run.points for run in begun} == {
        "ppo/policy_A": [(1, {"kl": 2.0})],
        "sft": [(1, {"loss": 2.5})],
    }
    assert len(find_runs(tmp_path)) == 2


def test_a_run_whose_name_ends_in_a_number_is_a_run(tmp_path: Path) -> None:
    for name in ("1", "lr_0.5", "beta.2", "lr_0.5.1"):
        line(tmp_path / name / STABILITY, '{"step": 1, "kl": 2.5}\n')
    assert [run.name for run, _ in find_runs(tmp_path)] == ["1", "beta.2", "lr_0.5"], "lr_0.5.1 was set aside"
