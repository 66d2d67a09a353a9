"""The options of a stage: off means nothing, wrong ones are refused at once, and a stop by alert can be resumed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mx_trl.dashboard.live import LOG, LiveDashboard
from mx_trl.dashboard.rules import AlertError
from mx_trl.stages.arguments import CommonArguments
from mx_trl.stages.observing import observers_of
from tests.stages.conftest import stage as stage
from tests.trl.trainers import Workshop

pytestmark = pytest.mark.trl

STOP = "version: 1\ndefaults: false\nrules:\n  - {name: enough, metric: loss, above: 0, after_step: 2, action: stop}\n"


def test_off_means_that_nothing_is_made_or_imported() -> None:
    assert observers_of(CommonArguments()) == []
    look = (
        "import sys; from mx_trl.stages.arguments import CommonArguments as C;"
        "from mx_trl.stages.observing import observers_of as o; o(C());"
        "sys.exit(any(name.startswith('mx_trl.dashboard') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", look], check=False).returncode == 0


def test_what_is_wrong_with_rules_is_said_before_training(tmp_path: Path) -> None:
    with pytest.raises(AlertError, match=r"none\.yaml"):
        observers_of(CommonArguments(alerts=str(tmp_path / "none.yaml")))


def test_a_stage_that_an_alert_stopped_says_so_and_goes_on(
    stage: Callable[..., Any], tmp_path: Path, lines_of: Callable[..., Any]
) -> None:
    path = tmp_path / "alerts.yaml"
    path.write_text(STOP)
    first = stage("sft", script={"alerts": str(path)}, max_steps=4)
    assert first.run().stopped
    out = Path(first.trainer.args.output_dir)
    assert (out / "checkpoints" / "checkpoint-2").is_dir() and not (out / "checkpoints" / "final").exists()
    again = stage("sft", script={"stability": True}, max_steps=4, resume_from_checkpoint="auto")
    assert not again.run().stopped
    assert (out / "checkpoints" / "final").is_dir()
    assert [record["step"] for record in lines_of(out, "stability.jsonl")] == [1, 2, 3, 4]
    assert [alert["rule"] for alert in lines_of(out, "alerts.jsonl")] == ["enough"]


def test_a_dashboard_begins_and_ends_with_training(
    workshop: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("trackio", reason="trackio is the live page: pip install 'mx-plugin[dashboard]'")
    live = LiveDashboard(tmp_path / "run")
    made: list[Any] = []
    begin = live.on_train_begin

    def remember(*args: Any, **kwargs: Any) -> None:
        begin(*args, **kwargs)
        made.append(live._process)

    live.on_train_begin = remember  # type: ignore[method-assign]
    workshop.trainer("sft", [live], max_steps=1).train()
    [process] = made
    process.wait(60)
    assert process.pid != os.getpid() and live._process is None
    assert (tmp_path / "run" / LOG).is_file()
    assert "ssh -N -L" in capsys.readouterr().out
