"""What StabilityCallback writes of real trainers, that it disturbs nothing, and what alerts do to them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mx_trl import MXCallback
from mx_trl.dashboard import StabilityCallback, register_alert_hook
from mx_trl.dashboard.files import PAUSED, resume
from tests.trl.trainers import Workshop, losses, same_weights

Lines = Callable[[Path, str], list[dict[str, Any]]]


def rules(folder: Path, text: str) -> Path:
    path = folder / "alerts.yaml"
    path.write_text(f"version: 1\ndefaults: false\nrules:\n  - {{name: mine, {text}}}\n")
    return path


# ---------------------------------------------------------------------------- what is recorded


@pytest.mark.trl("<1.13")
def test_ppo_without_mx_tells_everything_and_trains_the_same_bits(
    make_ppo: Callable[..., Any], tmp_path: Path, lines_of: Lines
) -> None:
    watched = make_ppo(tmp_path / "a", [StabilityCallback(output_dir=tmp_path / "run")])
    watched.train()
    alone = make_ppo(tmp_path / "b")  # which begins the random numbers again
    alone.train()
    assert same_weights(watched.model, alone.model)
    timed = [[{k: v for k, v in entry.items() if k != "eps"} for entry in losses(t)] for t in (watched, alone)]
    assert timed[0] == timed[1]
    records = lines_of(tmp_path / "run", "stability.jsonl")
    assert [record["step"] for record in records] == [1, 2]
    known = {"reward", "reward_std", "kl", "kl_per_token", "entropy", "ratio", "clip_fraction", "explained_variance",
             "length", "grad_norm/policy", "grad_norm/value", "loss", "value_loss", "learning_rate",
             "drift/policy/all", "drift/policy/model.layers.0", "drift/value/model.layers.1"}  # fmt: skip
    for record, entry in zip(records, watched.state.log_history, strict=True):
        assert known <= set(record)
        assert record["kl_per_token"] == pytest.approx(record["kl"] / record["length"])
        assert 1 <= record["length"] <= watched.args.response_length
        assert record["reward"] == entry["objective/scores"]
        assert entry["mx/stability/grad_norm/policy"] == record["grad_norm/policy"] > 0
    assert 0 < records[0]["drift/policy/all"] < records[1]["drift/policy/all"]
    assert not any(name.startswith("format/") for name in records[0])
    assert lines_of(tmp_path / "run", "alerts.jsonl") == []


@pytest.mark.trl("<1.13")
def test_with_mx_the_files_are_in_its_run_folder_with_mismatch_and_formats(
    make_ppo: Callable[..., Any], tmp_path: Path, lines_of: Lines
) -> None:
    callback = MXCallback(policy="C", mismatch_every=1, output_dir=tmp_path)
    make_ppo(tmp_path, [StabilityCallback(), callback]).train()
    records = lines_of(callback.run_dir, "stability.jsonl")
    for record in records:
        mix = {name: share for name, share in record.items() if name.startswith("format/rollout/")}
        assert sum(mix.values()) == pytest.approx(1.0)
        assert mix["format/rollout/MXFP4"] > 0.5
        assert record["mismatch"] > 0 and record["explained_variance"] < 1


@pytest.mark.trl
@pytest.mark.parametrize("kind", ["grpo", "sft"])
def test_other_trainers_tell_what_they_know(workshop: Workshop, tmp_path: Path, lines_of: Lines, kind: str) -> None:
    more = {"beta": 0.05} if kind == "grpo" else {}
    trainer = workshop.trainer(kind, [StabilityCallback()], max_grad_norm=0.01, **more)
    trainer.train()
    records = lines_of(Path(trainer.args.output_dir), "stability.jsonl")
    assert [record["step"] for record in records] == [1, 2]
    for record in records:
        assert record["grad_norm/policy"] == pytest.approx(record["grad_norm/all"], rel=1e-3)  # before clipping
        assert record["grad_norm/all"] > 0.01
        assert {"entropy", "loss", "drift/policy/all"} <= set(record)
        if kind == "grpo":
            assert {"reward", "reward_std", "kl_per_token", "length", "clip_fraction"} <= set(record)


# ---------------------------------------------------------------------------- what alerts do


@pytest.mark.trl
def test_an_alert_is_written_said_and_handed_to_its_hook(
    workshop: Workshop, tmp_path: Path, lines_of: Lines, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Any] = []

    def fail(alert: Any) -> None:
        heard.append(alert)
        raise RuntimeError("a hook's own trouble")

    register_alert_hook("remember", fail)
    path = rules(tmp_path, "metric: length, above: 0, severity: error, action: hook, hook: remember, silent_for: 0")
    with caplog.at_level(logging.INFO, logger="mx_trl.dashboard"):
        trainer = workshop.trainer("grpo", [StabilityCallback(path)])
        trainer.train()
    assert trainer.state.global_step == 2
    assert [alert.step for alert in heard] == [1, 2]
    alerts = lines_of(Path(trainer.args.output_dir), "alerts.jsonl")
    assert [(a["step"], a["rule"], a["metric"], a["bound"]) for a in alerts] == [
        (1, "mine", "length", 0.0), (2, "mine", "length", 0.0)
    ]  # fmt: skip
    assert "alert mine at step 1: length" in caplog.text
    assert "hook 'remember' of rule 'mine' failed" in caplog.text


@pytest.mark.trl
def test_stop_leaves_a_checkpoint_and_ends_training(workshop: Workshop, tmp_path: Path) -> None:
    callback = StabilityCallback(rules(tmp_path, "metric: length, above: 0, after_step: 2, action: stop"))
    trainer = workshop.trainer("grpo", [callback], max_steps=4)
    trainer.train()
    assert (trainer.state.global_step, callback.stopped_by) == (2, "mine")
    assert (Path(trainer.args.output_dir) / "checkpoint-2" / "trainer_state.json").is_file()


@pytest.mark.trl("<1.13")
def test_stop_ends_plain_trls_ppo_too(make_ppo: Callable[..., Any], tmp_path: Path) -> None:
    callback = StabilityCallback(rules(tmp_path, "metric: length, above: 0, after_step: 2, action: stop"))
    trainer = make_ppo(tmp_path, [callback], steps=4)
    loader = trainer.dataloader
    trainer.train()
    assert (trainer.state.global_step, callback.stopped_by) == (2, "mine")
    assert (Path(trainer.args.output_dir) / "checkpoint-2" / "model.safetensors").is_file()
    assert trainer.dataloader is loader


@pytest.mark.trl
def test_pause_waits_for_the_word_to_go_on(workshop: Workshop, tmp_path: Path) -> None:
    callback = StabilityCallback(rules(tmp_path, "metric: length, above: 0, action: pause, pause_minutes: 5"))
    trainer = workshop.trainer("grpo", [callback], max_steps=2)
    folder, seen = Path(trainer.args.output_dir), []

    def let_go() -> None:
        while not (folder / PAUSED).is_file():
            time.sleep(0.05)
        seen.append(trainer.state.global_step)
        assert resume(tmp_path) == [folder]

    other = threading.Thread(target=let_go, daemon=True)
    other.start()
    trainer.train()
    other.join(30)
    assert seen == [1]
    assert (trainer.state.global_step, callback.stopped_by) == (2, None)
    assert not (folder / PAUSED).exists()


@pytest.mark.trl
def test_a_pause_that_nobody_ends_stops_with_a_checkpoint(workshop: Workshop, tmp_path: Path) -> None:
    callback = StabilityCallback(rules(tmp_path, "metric: length, above: 0, action: pause, pause_minutes: 0.001"))
    trainer = workshop.trainer("grpo", [callback], max_steps=4)
    trainer.train()
    assert callback.stopped_by == "mine"
    step = trainer.state.global_step
    assert step < 4
    assert (Path(trainer.args.output_dir) / f"checkpoint-{step}" / "trainer_state.json").is_file()
