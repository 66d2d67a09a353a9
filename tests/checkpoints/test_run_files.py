"""What a stage leaves in its run folder, and what happens to what lay there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.checkpoints.compared import train_log

pytest.importorskip("trl")

from mx_trl.checkpoints.errors import CheckpointError
from mx_trl.checkpoints.files import RunFiles
from mx_trl.checkpoints.train_log import is_cost

if TYPE_CHECKING:
    from mx_trl.stages.built import BuiltStage

Make = Callable[..., "BuiltStage"]


def test_a_run_leaves_its_options_logs_curves_checkpoints_and_model(make_learning: Make, tmp_path: Path) -> None:
    stage = make_learning("sft", tmp_path, "C8", max_steps=2, save_steps=2, report_to="tensorboard")
    stage.run()
    assert {path.name for path in tmp_path.iterdir()} >= {"checkpoints", "config.json", "logs", "policy_C8", "tb"}
    folders = {path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()}
    assert folders == {"checkpoint-2", "final"}
    assert any(path.name.startswith("events") for path in (tmp_path / "tb").iterdir())
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["stage"] == "SFT" and config["seed"] == 5
    assert config["mx"]["policy"] == "C8" and config["script"]["num_examples"] == 10
    assert config["training"]["max_steps"] == 2 and config["training"]["output_dir"] == str(tmp_path)
    lines = [json.loads(line) for line in train_log(tmp_path).splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 2] and "train_loss" in lines[-1]
    costs = [json.loads(line) for line in (tmp_path / "logs" / "costs.jsonl").read_text().splitlines()]
    assert "train_runtime" in costs[-1] and costs[0]["mx/gradient/seconds"] > 0
    assert not any(is_cost(key) for line in lines for key in line)
    assert all(is_cost(key) or key in ("step", "epoch") for line in costs for key in line)
    assert stage.trainer.args.output_dir == str(tmp_path)


def test_an_earlier_run_is_set_aside_and_not_overwritten(make_learning: Make, tmp_path: Path) -> None:
    make_learning("sft", tmp_path, max_steps=1).run()
    (tmp_path / "held_out.json").write_text("{}")
    first = train_log(tmp_path)
    for number in (1, 2):
        make_learning("sft", tmp_path, max_steps=1, seed=5 + number).run()
        assert (tmp_path / f"checkpoints.{number}" / "final").is_dir()
        assert (tmp_path / f"config.json.{number}").is_file()
    assert (tmp_path / "held_out.json.1").is_file() and not (tmp_path / "held_out.json").exists()
    assert (tmp_path / "logs.1" / "train.jsonl").read_text() == first != train_log(tmp_path)


def test_auto_takes_the_newest_whole_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = RunFiles(tmp_path)
    assert files.find("auto") is None
    for step, name in ((2, "mx_state.json"), (10, "mx_state.json"), (12, "trainer_state.json")):
        folder = files.checkpoints / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / name).write_text("{}")
    assert files.find("auto") == files.checkpoints / "checkpoint-10"
    assert "checkpoint-12 is not a whole checkpoint" in caplog.text
    assert files.find(None) is None
    with pytest.raises(CheckpointError, match="no checkpoint there"):
        files.find(str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("key", "cost"),
    [
        ("loss", False),
        ("train_loss", False),
        ("train_runtime", True),
        ("train_steps_per_second", True),
        ("step_time", True),
        ("eps", True),
        ("objective/kl", False),
        ("mx/mismatch/kl", False),
        ("mx/kl_unquantised", False),
        ("mx/eval/rollout/joules/modelled:as-executed", True),
        ("mx/gradient/gmacs", True),
        ("steps", False),
    ],
)
def test_what_a_step_took_is_told_from_what_it_did(key: str, cost: bool) -> None:
    assert is_cost(key) is cost


def test_limits_checkpoints_and_trackers_that_cannot_be_are_refused(
    make_learning: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    from trl import ModelConfig

    from mx_plugin.config import MXConfig
    from mx_trl.checkpoints import reporters
    from mx_trl.errors import StageError
    from mx_trl.stages.arguments import SFTScriptArguments
    from mx_trl.stages.compare import run_policies

    with pytest.raises(CheckpointError, match="--max_minutes 0: give more than 0"):
        make_learning("sft", tmp_path, script={"max_minutes": 0.0}).train()
    monkeypatch.setitem(reporters._INSTALLED, "wandb", lambda: False)
    with pytest.raises(CheckpointError, match="pip install wandb"):
        reporters.check_reporters(SimpleNamespace(report_to=["wandb"]))
    script: Any = SFTScriptArguments(policies=["A", "C8"])
    with pytest.raises(StageError, match="is of one run, and there are 2 policies"):
        run_policies(
            lambda *_: pytest.fail("no stage may begin"), script,
            SimpleNamespace(resume_from_checkpoint="some/checkpoint-3", report_to=[], output_dir=str(tmp_path)),
            ModelConfig(), MXConfig(),
        )  # fmt: skip


def test_a_checkpoint_that_would_need_a_pickle_is_refused(tmp_path: Path) -> None:
    import torch

    from mx_trl.checkpoints.tree import load_tree, save_tree

    tree = {"a": [1, 2.5, (None, "x")], 3: {"t": torch.arange(3), "same": None}}
    tree["view"] = tree[3]["t"][:2]  # type: ignore[index, call-overload]
    save_tree(tmp_path, "state", tree)
    back = load_tree(tmp_path, "state")
    assert back["a"] == tree["a"] and torch.equal(back[3]["t"], torch.arange(3)) and back["view"].tolist() == [0, 1]
    with pytest.raises(CheckpointError, match=r"state\.f is a function"):
        save_tree(tmp_path, "state", {"f": lambda: None})
    (tmp_path / "state.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        load_tree(tmp_path, "state")
