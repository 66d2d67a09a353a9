"""PPO under a precision policy: each role in each phase runs in the formats that were chosen for it."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from mx_plugin.ledger import Ledger
from mx_trl import MXCallback

pytestmark = pytest.mark.trl("<1.13")

SCORING_IN_MXFP4_UPDATES_IN_MX = """
version: 1
name: mx_updates
defaults:
  rollout: MXFP6/MXFP8
  reward: MXFP8
  gradient:
    forward: MXFP8/MXFP8
    dgrad: {format: MXFP4/MXFP4, rounding: stochastic, scale_rule: rceil, hadamard: true}
    wgrad: {format: MXFP4/MXFP4, rounding: stochastic}
roles:
  value: {reward: MXFP4}
"""


def formats_by_role(rows: list[dict[str, str]]) -> dict[str, set[str]]:
    """Formats with MACs, by role; attention products are never quantised and have rows of their own."""
    found: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row["role"] != "all" and row["format"] != "attention":
            assert int(row["macs"]) > 0
            found[row["role"]].add(row["format"])
    return dict(found)


def test_policy_c_generates_in_mxfp4_scores_in_mxfp8_and_trains_unquantised(
    make_ppo: Callable[..., Any], rows_of: Callable[..., Any], tmp_path: Path
) -> None:
    callback = MXCallback(policy="C", output_dir=tmp_path)
    make_ppo(tmp_path, [callback]).train()
    for step in ("1", "2"):
        in_phase = {
            phase: formats_by_role(rows_of(callback.run_dir, "energy.csv", step=step, phase=phase))
            for phase in ("rollout", "reward", "gradient")
        }
        # lm_head is the MXFP8 of the rollout; the reference takes the sampler's format, its lm_head none.
        assert in_phase["rollout"] == {"policy": {"MXFP4/MXFP8", "MXFP8/MXFP8"}}
        assert in_phase["reward"] == {
            "reference": {"MXFP4/MXFP8", "FP16"},
            "value": {"MXFP8/MXFP8"},
            "reward": {"MXFP8/MXFP8"},
        }
        assert in_phase["gradient"] == {"policy": {"FP16"}, "value": {"FP16"}}


def test_rollout_macs_are_those_of_the_generated_tokens(
    make_ppo: Callable[..., Any], rows_of: Callable[..., Any], tmp_path: Path
) -> None:
    callback = MXCallback(policy="C", output_dir=tmp_path)
    trainer = make_ppo(tmp_path, [callback], steps=1, tokens=[[5, 6, 7, 8, 9]] * 8, response_length=6)
    trainer.policy_model.generation_config.eos_token_id = None  # every response has its full length
    trainer.train()
    config = trainer.policy_model.config
    hidden, key_width = (
        config.hidden_size,
        config.num_key_value_heads * config.hidden_size // config.num_attention_heads,
    )
    per_token = config.num_hidden_layers * hidden * (2 * hidden + 2 * key_width + 3 * config.intermediate_size)
    rows = rows_of(callback.run_dir, "energy.csv", step="1", phase="rollout", role="policy")
    macs = {row["format"]: int(row["macs"]) for row in rows}
    # The last token of a response is never fed back; lm_head sees only the last position of the prompt.
    assert macs["MXFP4/MXFP8"] == 8 * (5 + 6 - 1) * per_token
    assert macs["MXFP8/MXFP8"] == 8 * 6 * hidden * config.vocab_size


@pytest.mark.real_data
def test_a_trained_llama_with_a_ragged_last_block_trains_under_policy_c(
    make_ppo: Callable[..., Any],
    numbers_of: Callable[..., Any],
    rows_of: Callable[..., Any],
    stories260k: Path,
    tmp_path: Path,
) -> None:
    from mx_trl.models import ensure_padding, load_policy, load_scorer, load_tokenizer

    path = str(stories260k)
    tokenizer, policy = load_tokenizer(path), load_policy(path, dtype=torch.float32)
    ensure_padding(tokenizer, policy, [tokenizer.eos_token_id])
    openings = ("Once upon a time there was a", "One day, a little", "Tom and Lily went to", "The big dog")
    callback = MXCallback(policy="C", mismatch_every=1, output_dir=tmp_path)
    trainer = make_ppo(
        tmp_path,
        [callback],
        policy=policy,
        value=load_scorer(path, "value", dtype=torch.float32),
        reward=load_scorer(path, "reward", dtype=torch.float32),
        tokenizer=tokenizer,
        tokens=[tokenizer.encode(text) for text in openings * 4],
    )
    assert policy.model.layers[0].mlp.down_proj.in_features % 32 != 0
    trainer.train()
    assert _finite(numbers_of(trainer))
    rollout = formats_by_role(rows_of(callback.run_dir, "energy.csv", phase="rollout"))
    assert rollout == {"policy": {"MXFP4/MXFP8", "MXFP8/MXFP8"}}
    assert all(float(row["mismatch"]) > 0 for row in rows_of(callback.run_dir, "metrics.csv"))


def test_gpt2_generates_with_its_conv1d_layers_in_mxfp4(
    make_ppo: Callable[..., Any], rows_of: Callable[..., Any], embedded: Any, tmp_path: Path
) -> None:
    from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel
    from transformers.pytorch_utils import Conv1D

    from mx_trl.models import load_tokenizer

    tokenizer = load_tokenizer(str(embedded.policy))
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=48, n_layer=2, n_head=2, num_labels=1, **ends)
    callback = MXCallback(policy="C", output_dir=tmp_path)
    policy = GPT2LMHeadModel(config)
    make_ppo(tmp_path, [callback], policy=policy, value=GPT2ForSequenceClassification(config)).train()
    assert callback.last_session is not None
    adopted = [layer for layer in callback.last_session.engine.layers if layer.role == "policy"]
    assert len([layer for layer in adopted if layer.original is Conv1D]) == 4 * 2
    assert {type(layer.module) for layer in adopted} == {Conv1D, torch.nn.Linear}
    rollout = formats_by_role(rows_of(callback.run_dir, "energy.csv", phase="rollout"))
    assert rollout == {"policy": {"MXFP4/MXFP8", "MXFP8/MXFP8"}}


def test_policy_b_trains_with_quantised_gradients(
    make_ppo: Callable[..., Any], numbers_of: Callable[..., Any], rows_of: Callable[..., Any], tmp_path: Path
) -> None:
    callback = MXCallback(policy="B", output_dir=tmp_path)
    trainer = make_ppo(tmp_path, [callback])
    trainer.train()
    assert _finite(numbers_of(trainer))
    gradient = formats_by_role(rows_of(callback.run_dir, "energy.csv", phase="gradient"))
    # lm_head is unquantised outside the rollout, in the policy alone: the value model has none.
    assert gradient == {"policy": {"MXFP8/MXFP8", "FP16"}, "value": {"MXFP8/MXFP8"}}


def test_a_yaml_policy_trains_with_stochastic_mxfp4_gradients_and_a_role_of_its_own(
    make_ppo: Callable[..., Any], numbers_of: Callable[..., Any], rows_of: Callable[..., Any], tmp_path: Path
) -> None:
    policy = tmp_path / "mx_updates.yaml"
    policy.write_text(SCORING_IN_MXFP4_UPDATES_IN_MX)
    callback = MXCallback(policy=str(policy), output_dir=tmp_path)
    trainer = make_ppo(tmp_path, [callback])
    trainer.train()
    assert callback.run_dir == tmp_path / "policy_mx_updates"
    assert _finite(numbers_of(trainer))
    reward, gradient = (
        formats_by_role(rows_of(callback.run_dir, "energy.csv", phase=phase)) for phase in ("reward", "gradient")
    )
    assert reward["value"] == {"MXFP4/MXFP8"}
    assert reward["reference"] == {"MXFP6/MXFP8", "FP16"}
    assert gradient["value"] == {"MXFP8/MXFP8", "MXFP4/MXFP4+sr+rht", "MXFP4/MXFP4+sr"}


def test_the_phases_add_up_to_the_wall_time_of_train(
    make_ppo: Callable[..., Any], rows_of: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, within = [], []

    def clock() -> float:
        read.append(time.perf_counter())
        return read[-1]

    class Witness(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            within.append(time.perf_counter())

        on_train_end = on_train_begin

    monkeypatch.setattr("mx_trl.books.Ledger", partial(Ledger, clock=clock))
    callback = MXCallback(policy="C", output_dir=tmp_path)
    trainer = make_ppo(tmp_path, [callback, Witness()])
    began = time.perf_counter()
    trainer.train()
    ended = time.perf_counter()
    rows = rows_of(callback.run_dir, "energy.csv")
    assert sum(float(row["seconds"]) for row in rows if row["seconds"]) == pytest.approx(read[-1] - read[0], abs=1e-9)
    # Outside the windows there is only adopting before the first, and closing files after the last.
    assert began < read[0] < within[0] < within[1] < read[-1] < ended
    assert {row["phase"] for row in rows} == {"rollout", "reward", "gradient", "other"}


def test_sample_completions_are_counted_as_evaluation_and_not_as_rollout(
    make_ppo: Callable[..., Any], rows_of: Callable[..., Any], tmp_path: Path
) -> None:
    def macs(name: str, completions: int) -> dict[tuple[str, str], int]:
        callback = MXCallback(policy="C", output_dir=tmp_path / name)
        make_ppo(tmp_path / name, [callback], num_sample_generations=completions).train()
        totals: dict[tuple[str, str], int] = defaultdict(int)
        for row in rows_of(callback.run_dir, "energy.csv"):
            if row["macs"] and row["phase"] != "other" and row["role"] in ("policy", "reward"):
                totals[row["phase"], row["format"]] += int(row["macs"])
        return dict(totals)

    without, sampled = macs("without", 0), macs("with", 2)
    assert {phase for phase, _ in without} == {"rollout", "reward", "gradient"}
    assert {phase for phase, _ in sampled} == {"rollout", "reward", "gradient", "eval/rollout", "eval/reward"}
    assert {fmt for phase, fmt in sampled if phase == "eval/rollout"} == {"MXFP4/MXFP8", "MXFP8/MXFP8", "attention"}
    assert {fmt for phase, fmt in sampled if phase == "eval/reward"} == {"MXFP8/MXFP8", "attention"}
    training = {key: value for key, value in sampled.items() if not key[0].startswith("eval/")}
    # The number of scored tokens may differ (sampling drew from the same stream), the update's may not.
    assert training["gradient", "FP16"] == without["gradient", "FP16"]
    assert training["rollout", "MXFP4/MXFP8"] == pytest.approx(without["rollout", "MXFP4/MXFP8"], rel=0.2)


def _finite(log: list[dict[str, Any]]) -> bool:
    return all(math.isfinite(entry["loss/policy_avg"]) and math.isfinite(entry["loss/value_avg"]) for entry in log)
