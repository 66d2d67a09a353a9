"""The live page while a run goes on, and what becomes of run and page when either is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from mx_trl.dashboard import StabilityCallback
from tests.dashboard.serving import Dashboard, until
from tests.report.browser import HOW, Browser, find
from tests.trl.trainers import Workshop, losses, same_weights

pytest.importorskip("trackio", reason="trackio is the live page: pip install 'mx-plugin[dashboard]'")
pytestmark = pytest.mark.trl

RULES = "version: 1\ndefaults: false\nrules:\n  - {name: too_long, metric: length, above: 0, after_step: 2}\n"
PICTURES = "[...document.querySelectorAll('canvas')].map(c => c.toDataURL().length + c.toDataURL().slice(-4000))"


class AtStep(TrainerCallback):
    """Does something when a step has been logged."""

    def __init__(self, act: Callable[[int], None]) -> None:
        self.act = act

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "train_runtime" not in (logs or {}):
            self.act(state.global_step)


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "alerts.yaml"
    path.write_text(RULES)
    return path


@pytest.fixture
def dashboard(tmp_path: Path) -> Any:
    folder = tmp_path / "run"
    folder.mkdir()
    with Dashboard(folder, tmp_path / "dashboard.txt") as served:
        yield served


@pytest.mark.skipif(find() is None, reason=HOW)
def test_the_page_shows_new_points_and_alerts_while_a_run_goes_on_and_killing_it_disturbs_nothing(
    workshop: Workshop, dashboard: Dashboard, rules: Path, tmp_path: Path
) -> None:
    seen: dict[int, Any] = {}

    def look(step: int) -> None:
        """In the middle of training: the page must show this step before the run goes on."""
        if step > 3:
            return
        until(lambda: dashboard.steps("run", "reward") == list(range(1, step + 1)), f"step {step} is not served")
        if step == 1:
            page.ask("Page.navigate", url=dashboard.url)
        until(lambda: "grad_norm" in text() and len(pictures()) > 3, "the page has no plots")
        until(lambda: not seen or pictures() != seen[step - 1], f"the page does not change at step {step}")
        seen[step] = pictures()
        assert step > 1 or "too_long" not in text()
        if step == 3:
            until(lambda: "Alerts (1)" in text() and "too_long" in text(), "the page has no alert")
            dashboard.kill()

    def text() -> str:
        return str(page.value("document.body ? document.body.innerText : ''"))

    def pictures() -> list[str]:
        return list(page.value(PICTURES))

    with Browser(tmp_path / "profile") as page:
        page.look(1300, 1000)
        callbacks = [StabilityCallback(rules, output_dir=dashboard.folder), AtStep(look)]
        watched = workshop.trainer("grpo", callbacks, max_steps=5, out="watched")
        watched.train()
    asked = [told for told in page.complaints if told.startswith("request: ") and "//127.0.0.1:" not in told]
    assert asked == []
    assert dashboard.process.poll() == -signal.SIGKILL
    alone = workshop.trainer("grpo", max_steps=5, out="alone")
    alone.train()
    assert same_weights(watched.model, alone.model)
    assert losses(watched) == losses(alone)


TRAIN = """
import sys
from pathlib import Path
from mx_trl.dashboard import StabilityCallback
from mx_trl.embedded import EmbeddedFolder
from tests.trl.trainers import Workshop
embedded, folder, rules = map(Path, sys.argv[1:])
workshop = Workshop(EmbeddedFolder.at(embedded), folder.parent)
workshop.trainer("grpo", [StabilityCallback(rules, output_dir=folder)], max_steps=500, rows=64).train()
"""


def test_it_serves_loopback_only_and_killing_training_leaves_it_and_its_page_readable(
    embedded: Any, dashboard: Dashboard, rules: Path, tmp_path: Path
) -> None:
    _check_it_is_on_loopback_only(dashboard)
    root = Path(__file__).parents[2]
    training = subprocess.Popen(
        [sys.executable, "-c", TRAIN, str(embedded.policy.parent), str(dashboard.folder), str(rules)],
        cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        until(lambda: training.poll() is not None or len(dashboard.steps("run", "reward")) >= 3, "no steps come")
        assert training.poll() is None
    finally:
        training.kill()
        training.wait(60)
    with (dashboard.folder / "stability.jsonl").open("a") as file:
        file.write('{"step": 4')  # what a kill in the middle of a line leaves
    written = len((dashboard.folder / "stability.jsonl").read_text().splitlines()) - 1
    until(lambda: dashboard.steps("run", "reward") == list(range(1, written + 1)), "what was written is not served")
    assert dashboard.alerts()[0] == (2, "too_long")
    assert dashboard.process.poll() is None
    pytest.importorskip("plotly", reason="plotly draws the page: pip install 'mx-plugin[report]'")
    page = tmp_path / "page.html"
    command = [sys.executable, "-m", "mx_plugin", "dashboard", str(dashboard.folder), "--html", str(page)]
    assert subprocess.run(command, check=False).returncode == 0
    assert "stability-reward" in page.read_text() and "too_long" in page.read_text()


def _check_it_is_on_loopback_only(dashboard: Dashboard) -> None:
    said = dashboard.log.read_text()
    port = dashboard.url.split(":")[2].split("/")[0]
    assert dashboard.url.startswith("http://127.0.0.1:")
    assert f"ssh -N -L {port}:127.0.0.1:{port} " in said
    assert "write_token" not in said and "share" not in said
    listening = {
        line.split()[1]
        for file in ("/proc/net/tcp", "/proc/net/tcp6")
        if Path(file).exists()
        for line in Path(file).read_text().splitlines()[1:]
        if line.split()[3] == "0A" and line.split()[1].endswith(f":{int(port):04X}")
    }
    assert listening == {f"0100007F:{int(port):04X}"}
