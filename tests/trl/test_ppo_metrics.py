"""What a run tells: the trainer's own log, TensorBoard, metrics.csv, and the gate before the first update."""

from __future__ import annotations

import csv
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mx_trl import MXCallback
from mx_trl.gate import MismatchError

pytestmark = pytest.mark.trl("<1.13")

MISMATCH = ("kl", "frac_outside_clip", "seq_logratio_std", "mean_abs_logratio")


# ---------------------------------------------------------------------------- where the numbers go


def test_our_numbers_are_in_the_trainers_log_at_every_step(make_ppo: Callable[..., Any], tmp_path: Path) -> None:
    trainer = make_ppo(tmp_path, [MXCallback(policy="C", mismatch_every=1, output_dir=tmp_path)])
    trainer.train()
    log = trainer.state.log_history
    assert [entry["step"] for entry in log] == [1, 2]
    for entry in log:
        for phase in ("rollout", "reward", "gradient", "other"):
            assert entry[f"mx/{phase}/seconds"] > 0
            assert entry[f"mx/{phase}/gmacs"] > 0
            assert entry[f"mx/{phase}/joules/modelled:as-executed"] > 0
        assert all(f"mx/mismatch/{name}" in entry for name in MISMATCH)


def test_tensorboard_shows_our_numbers_beside_the_trainers(
    make_ppo: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    trainer = make_ppo(
        tmp_path, [MXCallback(policy="C", mismatch_every=1, output_dir=tmp_path)], report_to="tensorboard"
    )
    trainer.train()
    [events] = (tmp_path / "events").rglob("events.out.tfevents.*")
    read = EventAccumulator(str(events)).Reload()
    ours = [tag for tag in read.Tags()["scalars"] if "mx/" in tag]
    for key in ("mx/rollout/seconds", "mx/mismatch/kl"):
        [tag] = [tag for tag in ours if tag.endswith(key)]
        logged = [(entry["step"], entry[key]) for entry in trainer.state.log_history]
        assert [(event.step, event.value) for event in read.Scalars(tag)] == [
            (step, pytest.approx(value, rel=1e-6)) for step, value in logged
        ]
    assert any(tag.endswith("objective/scores") for tag in read.Tags()["scalars"])


def test_metrics_csv_repeats_the_trainers_own_numbers(
    make_ppo: Callable[..., Any], rows_of: Callable[..., Any], tmp_path: Path
) -> None:
    callback = MXCallback(policy="C", mismatch_every=1, output_dir=tmp_path)
    trainer = make_ppo(tmp_path, [callback])
    trainer.train()
    columns = {
        "reward": "objective/scores",
        "kl": "objective/kl",
        "entropy": "policy/entropy_avg",
        "ratio": "val/ratio",
        "clip_fraction": "policy/clipfrac_avg",
        "mismatch": "mx/mismatch/mean_abs_logratio",
    }
    rows = rows_of(callback.run_dir, "metrics.csv")
    for row, entry in zip(rows, trainer.state.log_history, strict=True):
        assert int(row["step"]) == entry["step"]
        assert {column: float(row[column]) for column in columns} == {c: entry[key] for c, key in columns.items()}
    assert all(float(row["mismatch"]) > 0 for row in rows)


def test_config_json_says_what_ran_in_which_format_and_what_was_left_out(
    make_ppo: Callable[..., Any], tmp_path: Path
) -> None:
    callback = MXCallback(policy="C")
    trainer = make_ppo(tmp_path, [callback])
    trainer.train()
    assert callback.run_dir == Path(trainer.args.output_dir) / "policy_C"
    config = json.loads((callback.run_dir / "config.json").read_text())
    formats = config["formats"]
    assert set(formats) == {"policy", "value", "reference", "reward"}
    assert formats["policy"]["rollout"]["model.layers.0.mlp.up_proj"] == "MXFP4/MXFP8"
    assert formats["policy"]["rollout"]["lm_head"] == "MXFP8/MXFP8"
    assert formats["policy"]["gradient"]["lm_head"] == "FP16"
    assert formats["reference"]["reward"]["model.layers.0.mlp.up_proj"] == "MXFP4/MXFP8"
    left_out = {(item["role"], item["name"]): item["reason"] for item in config["left_out"]}
    assert left_out["value", "score"] == left_out["reward", "score"] == "score or value head"
    assert left_out["policy", "model.embed_tokens"] == "embedding"
    assert config["hits"]["policy"]["rollout"]["model.layers.0.mlp.up_proj"] == 2 * trainer.args.response_length
    assert config["unquantised"] == ["FP16[float32]"]
    assert config["seed"] == trainer.args.seed
    assert {"torch", "trl", "transformers"} <= config["versions"].keys()


def test_the_closing_table_names_every_phase_and_the_reward(make_ppo: Callable[..., Any], tmp_path: Path) -> None:
    callback = MXCallback(policy="C", output_dir=tmp_path)
    trainer = make_ppo(tmp_path, [callback])
    trainer.train()
    table = callback.summary()
    assert all(phase in table for phase in ("rollout", "reward", "gradient", "other"))
    first, last = (f"{entry['objective/scores']:.4g}" for entry in trainer.state.log_history)
    assert f"{first} -> {last}" in table
    assert table in (callback.run_dir / "training_log.txt").read_text()


# ---------------------------------------------------------------------------- the step-0 gate and the mismatch


EVERYTHING_IN_MXFP4 = """
version: 1
name: everything
defaults: {rollout: MXFP4/MXFP4, reward: MXFP4/MXFP4}
lm_head: {rollout: MXFP4/MXFP4}
"""


@pytest.fixture
def everything_in_mxfp4(tmp_path: Path) -> str:
    """A policy file that generates in MXFP4 on both sides, lm_head included: far too coarse."""
    path = tmp_path / "everything.yaml"
    path.write_text(EVERYTHING_IN_MXFP4)
    return str(path)


def test_the_gate_warns_and_names_the_layers_that_err_most(
    make_ppo: Callable[..., Any], everything_in_mxfp4: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = MXCallback(policy=everything_in_mxfp4, gate_clip=0.05, output_dir=tmp_path)
    trainer = make_ppo(tmp_path, [callback])
    with caplog.at_level(logging.WARNING, logger="mx_trl.gate"):
        trainer.train()
    [warning] = [record.getMessage() for record in caplog.records if record.name == "mx_trl.gate"]
    assert "step-0 gate exceeded" in warning
    assert "1 +- 0.05" in warning
    named = [layer.name for layer in callback.last_session.engine.layers if layer.name + " (" in warning]
    assert len(set(named)) == 5
    assert trainer.state.global_step == 2


def test_the_gate_can_stop_the_run_before_any_update(
    make_ppo: Callable[..., Any],
    weights_of: Callable[..., Any],
    everything_in_mxfp4: str,
    tmp_path: Path,
) -> None:
    callback = MXCallback(policy=everything_in_mxfp4, gate_clip=0.05, on_mismatch="fail", output_dir=tmp_path)
    trainer = make_ppo(tmp_path, [callback])
    before = weights_of(trainer)
    with pytest.raises(MismatchError, match="step-0 gate exceeded"):
        trainer.train()
    assert trainer.state.global_step == 0
    assert all(torch.equal(before[name], weight) for name, weight in weights_of(trainer).items())


def test_a_gate_that_is_passed_says_so_and_does_not_warn(
    make_ppo: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = MXCallback(policy="C8", on_mismatch="fail", output_dir=tmp_path)
    with caplog.at_level(logging.INFO, logger="mx_trl.gate"):
        make_ppo(tmp_path, [callback]).train()
    [said] = [record for record in caplog.records if record.name == "mx_trl.gate"]
    assert said.levelno == logging.INFO
    assert "step-0 gate passed" in said.getMessage()


@pytest.mark.parametrize("stop", [None, "eos"])
def test_the_measured_mismatch_is_what_trl_puts_into_its_first_ratio(
    make_ppo: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: str | None
) -> None:
    import trl.experimental.ppo.ppo_trainer as ppo

    scored: list[tuple[torch.Tensor, torch.Tensor]] = []

    def spy(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        logprobs = selective(logits, tokens)
        scored.append((tokens.clone(), logprobs.detach().clone()))
        return logprobs

    selective = ppo.selective_log_softmax
    monkeypatch.setattr(ppo, "selective_log_softmax", spy)
    callback = MXCallback(policy="C", mismatch_samples=8, output_dir=tmp_path)
    # One micro-batch, one epoch: all new log-probs are taken before the first update.
    one = {"steps": 1, "num_ppo_epochs": 1, "gradient_accumulation_steps": 1, "per_device_train_batch_size": 8}
    trainer = make_ppo(tmp_path, [callback], **one, stop_token=stop, temperature=0.8, response_length=12)
    trainer.train()
    (sampled, old), _reference, (shuffled, new) = scored
    order = [next(j for j, row in enumerate(shuffled) if torch.equal(row, mine)) for mine in sampled]
    difference = (new[order] - old).abs()
    ended = sampled == trainer.processing_class.eos_token_id
    assert ended.any()
    counted = (ended.cumsum(1) - ended.long()) == 0 if stop else torch.ones_like(ended)
    [entry] = trainer.state.log_history
    # Decoding with a cache and scoring whole sequences add up in another order: some casts round otherwise.
    assert entry["mx/mismatch/mean_abs_logratio"] == pytest.approx(difference[counted].mean().item(), rel=0.02)


def test_kl_of_both_unquantised_is_in_the_log_only_where_it_was_measured(
    make_ppo: Callable[..., Any], rows_of: Callable[..., Any], tmp_path: Path
) -> None:
    callback = MXCallback(policy="C", kl_every=2, mismatch_every=0, output_dir=tmp_path)
    trainer = make_ppo(tmp_path, [callback], steps=4)
    trainer.train()
    # Measured when steps 1, 3 (every second) and 4 (the last) began; the log of a step carries it.
    measured = [entry["step"] for entry in trainer.state.log_history if "mx/kl_unquantised" in entry]
    assert measured == [1, 3, 4]
    rows = rows_of(callback.run_dir, "metrics.csv")
    assert [row["step"] for row in rows if row["kl_unquantised"]] == ["1", "3", "4"]
    assert [row["step"] for row in rows if row["mismatch"]] == ["1"]
    # Before the first update policy and reference are the same weights; afterwards they are not.
    assert float(rows[0]["kl_unquantised"]) == 0.0
    assert all(float(row["kl_unquantised"]) > 0 for row in rows if row["kl_unquantised"] and row["step"] != "1")


# ---------------------------------------------------------------------------- the reference


NO_HEAD = """
version: 1
name: no_head
defaults: {rollout: MXFP4, reward: MXFP8}
"""


@pytest.mark.parametrize("with_peft", [False, True], ids=["a copy", "adapters off"])
def test_the_reference_takes_the_samplers_formats_so_that_kl_starts_at_zero(
    make_ppo: Callable[..., Any], rows_of: Callable[..., Any], tmp_path: Path, with_peft: bool
) -> None:
    policy = tmp_path / "no_head.yaml"
    policy.write_text(NO_HEAD)

    def step_zero(reference: str) -> tuple[float, float, set[str]]:
        from peft import LoraConfig

        peft_config = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM") if with_peft else None
        callback = MXCallback(policy=str(policy), reference=reference, output_dir=tmp_path / reference)
        trainer = make_ppo(tmp_path, [callback], peft_config=peft_config, steps=1)
        trainer.train()
        [entry] = trainer.state.log_history
        rows = rows_of(callback.run_dir, "energy.csv", phase="reward", role="policy" if with_peft else "reference")
        return entry["mx/mismatch/reference_kl"], entry["objective/kl"], {row["format"] for row in rows}

    measured, reported, formats = step_zero("match")
    assert measured == 0.0
    assert abs(reported) < 1e-3
    assert formats == {"MXFP4/MXFP8", "FP16", "attention"}
    measured, reported, formats = step_zero("own")
    assert measured > 1e-4
    assert formats == ({"FP16", "attention"} if with_peft else {"MXFP8/MXFP8", "FP16", "attention"})


def test_a_quantised_head_leaves_a_small_kl_at_step_zero(make_ppo: Callable[..., Any], tmp_path: Path) -> None:
    trainer = make_ppo(tmp_path, [MXCallback(policy="C", output_dir=tmp_path)], steps=1)
    trainer.train()
    [entry] = trainer.state.log_history
    assert 0 < entry["mx/mismatch/reference_kl"] < 0.01
    assert math.isfinite(entry["objective/kl"])


def test_every_column_of_energy_csv_can_be_summed(make_ppo: Callable[..., Any], tmp_path: Path) -> None:
    callback = MXCallback(policy="C", output_dir=tmp_path)
    trainer = make_ppo(tmp_path, [callback])
    trainer.train()
    with (callback.run_dir / "energy.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    for entry in trainer.state.log_history:
        mine = [row for row in rows if int(row["step"]) == entry["step"]]
        for phase in ("rollout", "reward", "gradient", "other"):
            of_phase = [row for row in mine if row["phase"] == phase]
            assert sum(int(row["macs"]) for row in of_phase if row["macs"]) / 1e9 == entry[f"mx/{phase}/gmacs"]
            assert sum(float(row["seconds"]) for row in of_phase if row["seconds"]) == entry[f"mx/{phase}/seconds"]
