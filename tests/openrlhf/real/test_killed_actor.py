"""An actor that is killed in mid-run: the run ends with an error, its files are readable, no process is left."""

from __future__ import annotations

import csv
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.openrlhf.recipes import PPO, command_line

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def until(what: Callable[[], bool], seconds: float) -> bool:
    """Wait for a condition; whether it came true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.2)
    return False


def test_a_killed_reference_ends_the_run(folder: Path, model: Path, data: dict[str, Path]) -> None:
    flags = [*PPO.split(), "--actor.model_name_or_path", str(model), "--data.prompt_dataset", str(data["prompts"])]
    flags += ["--algo.advantage.estimator", "group_norm", "--reward.remote_url", str(data["reward"])]
    flags += ["--data.max_samples", "16", "--train.num_episodes", "500"]
    here = folder / "killed"
    command, environment = command_line("train_ppo_ray", here, flags, "C")
    log = here / "output.txt"
    with log.open("w") as out:
        driver = subprocess.Popen(
            command, cwd=here, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            assert until(lambda: "Global step 2" in log.read_text() or driver.poll() is not None, 600)
            assert driver.poll() is None, log.read_text()[-5000:]
            family = psutil.Process(driver.pid).children(recursive=True)
            (victim,) = [p for p in family if p.cmdline() and p.cmdline()[0].startswith("ray::ReferenceModelActor")]
            victim.kill()
            status = driver.wait(300)
        finally:
            if driver.poll() is None:
                for process in psutil.Process(driver.pid).children(recursive=True):
                    process.kill()
                driver.kill()
    said = log.read_text()
    assert status != 0 and "ActorDiedError" in said
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
    (files,) = sorted(here.glob("mx/policy_C"))
    with (files / "energy.csv").open() as file:
        steps = {int(row["step"]) for row in csv.DictReader(file)}
    with (files / "metrics.csv").open() as file:
        logged = [int(row["step"]) for row in csv.DictReader(file)]
    assert len(logged) >= 2 and logged == sorted(logged) and set(logged) <= steps
    assert "training ended after step" in (files / "training_log.txt").read_text()
