"""Runs in real processes: killed, continued, interrupted, failing; what is finished stays, the rest is made again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mx_plugin.experiments.folder import DONE, ResultsFolder, why_not_done
from mx_plugin.experiments.plan import PlannedRun

DRIVER = Path(__file__).with_name("driver.py")


def start(results: Path, *words: str) -> subprocess.Popen[str]:
    # Behind a shell's & SIGINT is ignored, here and in what is started.
    return subprocess.Popen(
        [sys.executable, str(DRIVER), str(results), *words], stderr=subprocess.PIPE, text=True, preexec_fn=_heed_sigint
    )


def _heed_sigint() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(results: Path, *words: str) -> tuple[int, str]:
    process = start(results, *words)
    _, said = process.communicate(timeout=300)
    return process.returncode, said


def wait_for(what: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def tree(results: Path) -> dict[str, str]:
    """Every file's content; done.json without when it was finished."""
    found = {}
    for file in sorted(results.rglob("*")):
        if file.is_file() and file.name != ".lock":
            text = file.read_text(encoding="utf-8")
            found[str(file.relative_to(results))] = (
                json.dumps({**json.loads(text), "finished": ""}) if file.name == DONE else text
            )
    return found


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    results = tmp_path_factory.mktemp("unbroken") / "results"
    status, said = finish(results)
    assert status == 0, said
    return tree(results)


@pytest.mark.parametrize("done_before", [0, 2])
def test_killed_and_started_again_it_leaves_the_files_of_an_unbroken_run(
    unbroken: dict[str, str], tmp_path: Path, done_before: int
) -> None:
    results = tmp_path / "results"
    process = start(results)
    parts = lambda: list(results.glob("runs/*/*.part/metrics.csv"))  # noqa: E731
    wait_for(lambda: len(list(results.glob("runs/*/seed_?/done.json"))) >= done_before and bool(parts()))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    finished = {path: path.stat().st_mtime_ns for path in results.glob("runs/*/seed_?/done.json")}
    assert len(finished) < 4
    status, said = finish(results)
    assert status == 0, said
    assert tree(results) == unbroken
    assert {path: path.stat().st_mtime_ns for path in finished} == finished, "a finished run was made again"


def test_no_run_outlives_a_killed_experiment(tmp_path: Path) -> None:
    results = tmp_path / "results"
    process = start(results)
    wait_for(lambda: bool(list(results.glob("runs/*/*.part/metrics.csv"))))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    sizes = lambda: [file.stat().st_size for file in sorted(results.glob("runs/*/*.part/metrics.csv"))]  # noqa: E731
    time.sleep(0.5)
    before = sizes()
    time.sleep(0.5)
    assert sizes() == before
    assert not list(results.glob("runs/*/*/done.json"))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, None)])
def test_a_signal_ends_the_runs_first(tmp_path: Path, number: signal.Signals, status: int | None) -> None:
    results = tmp_path / "results"
    process = start(results)
    wait_for(lambda: bool(list(results.glob("runs/*/*.part/metrics.csv"))))
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == status if status else "KeyboardInterrupt" in said
    assert list(results.glob("runs/*/*.part")), "what was being written is still there"


def test_a_run_that_fails_is_told_with_its_log_and_the_others_go_on(tmp_path: Path) -> None:
    results = tmp_path / "results"
    status, said = finish(results, "D")
    assert status == 1
    assert "D seed 1: FAILED" in said and "RuntimeError: the reward model exploded" in said
    folder = ResultsFolder(results)
    assert all(folder.is_done(PlannedRun("A", "A", seed)) for seed in (1, 2))
    assert not any(folder.is_done(PlannedRun("D", "D", seed)) for seed in (1, 2))
    status, said = finish(results)
    assert status == 0 and "A seed" not in said.split("\n", 1)[0]
    assert folder.is_done(PlannedRun("D", "D", 2))


def test_a_second_experiment_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    results = tmp_path / "results"
    first = start(results)
    wait_for((results / "plan.json").exists)
    status, said = finish(results)
    assert status != 0 and "another process is running the experiment" in said
    assert first.communicate(timeout=120) and first.returncode == 0


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda run: (run / DONE).unlink(), "has no done.json"),
        (lambda run: (run / DONE).write_text('{"files": '), "cannot be read"),
        (lambda run: (run / "metrics.csv").unlink(), "metrics.csv is missing"),
        (lambda run: (run / "metrics.csv").write_text("step\n"), "not what done.json says"),
    ],
)
def test_a_damaged_run_is_never_trusted(tmp_path: Path, damage: Callable[[Path], object], reason: str) -> None:
    from mx_plugin.experiments.folder import write_done

    run, folder = PlannedRun("A", "A", 1), ResultsFolder(tmp_path)
    path = folder.begin(run)
    (path / "metrics.csv").write_text("step\n1\n", encoding="utf-8")
    write_done(path, seconds=1.0, steps=1)
    path = folder.finish(run)
    assert folder.is_done(run)
    damage(path)
    assert reason in why_not_done(path)
    assert list(folder.begin(run).iterdir()) == []
    assert path.with_name("seed_1.untrusted.1").is_dir()


def test_a_model_may_be_removed_and_nothing_else(tmp_path: Path) -> None:
    from mx_plugin.experiments.folder import write_done

    run, folder = PlannedRun("A", "A", 1), ResultsFolder(tmp_path)
    path = folder.begin(run)
    (path / "model").mkdir()
    (path / "model" / "model.safetensors").write_text("weights", encoding="utf-8")
    write_done(path, seconds=1.0, steps=1)
    path = folder.finish(run)
    (path / "model" / "model.safetensors").write_text("other", encoding="utf-8")
    assert not folder.is_done(run)
    (path / "model" / "model.safetensors").unlink()
    (path / "model").rmdir()
    assert folder.is_done(run)
