"""GRPO under MX: wrappers, evaluation, resumption, references and rewards as its users combine them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .trainers import (
    MX_GRADIENT,
    TRUNK,
    Workshop,
    config_of,
    csv_rows,
    executed,
    formats_in,
    length_reward,
    losses,
    macs_in,
    plain,
    same_weights,
)

pytest.importorskip("trl")

from mx_trl import MXCallback

if TYPE_CHECKING:
    from mx_trl.embedded import EmbeddedFolder


@pytest.fixture
def workshop(embedded: EmbeddedFolder, tmp_path: Path) -> Workshop:
    return Workshop(embedded, tmp_path)


@pytest.fixture
def mx_gradient(tmp_path: Path) -> str:
    """A policy file with MX in all phases, gradients included."""
    path = tmp_path / "mx_gradient.yaml"
    path.write_text(MX_GRADIENT)
    return str(path)


def trained(
    workshop: Workshop, policy: str, resume: Any = None, mx: dict[str, Any] | None = None, **config: Any
) -> Any:
    """A GRPO trainer that has trained, and its callback."""
    # Uncorrected: the pass of the policy in phase reward that a correction takes is test_rollout_correction's business.
    options = {"mismatch_every": 1, "rollout_correction": "off", **(mx or {})}
    callback = MXCallback(policy=policy, output_dir=workshop.folder, **options)
    trainer = workshop.trainer("grpo", [callback], **config)
    trainer.train(resume_from_checkpoint=resume)
    assert callback.run_dir is not None and callback.last_session is not None
    return trainer, callback


def column(callback: MXCallback, file: str, name: str) -> list[str]:
    assert callback.run_dir is not None
    return [row[name] for row in csv_rows(callback.run_dir, file)]


# ---------------------------------------------------------------------------- nothing else is touched


@pytest.mark.parametrize(
    "config", [{}, {"beta": 0.1, "num_iterations": 2, "max_steps": 4}], ids=["plain", "with_reference"]
)
def test_policy_a_is_bit_identical_to_a_run_without_the_callback(config: dict[str, Any], workshop: Workshop) -> None:
    bare = workshop.trainer("grpo", out="bare", **config)
    bare.train()
    trainer, callback = trained(workshop, "A", **config)
    assert losses(trainer) == losses(bare)
    assert same_weights(trainer.model, bare.model)
    assert formats_in(callback.run_dir)["rollout"] == {"policy": {"FP16"}}


def test_a_trained_model_is_an_ordinary_one_again(workshop: Workshop, mx_gradient: str) -> None:
    trainer, _ = trained(workshop, mx_gradient, beta=0.1)
    assert plain(trainer.model) and plain(trainer.ref_model)


# ---------------------------------------------------------------------------- references


def test_kl_is_exactly_zero_at_step_0_when_the_reference_matches_quantised_log_probs(
    workshop: Workshop, mx_gradient: str
) -> None:
    trainer, callback = trained(workshop, mx_gradient, beta=0.1)
    assert losses(trainer)[0]["kl"] == 0.0
    assert trainer.state.log_history[0]["mx/mismatch/reference_kl"] == 0.0
    assert "MXFP8/MXFP8" in formats_in(callback.run_dir)["reward"]["reference"]


def test_kl_is_biased_from_step_0_when_the_reference_keeps_its_own_formats(
    workshop: Workshop, mx_gradient: str
) -> None:
    trainer, callback = trained(workshop, mx_gradient, mx={"reference": "own"}, beta=0.1)
    assert losses(trainer)[0]["kl"] > 0.0
    assert trainer.state.log_history[0]["mx/mismatch/reference_kl"] > 0.0
    assert "MXFP6/MXFP8" in formats_in(callback.run_dir)["reward"]["reference"]


def test_a_synced_reference_is_never_stale(workshop: Workshop, mx_gradient: str) -> None:
    """With mixup 1 the reference *is* the policy at every step, so KL stays zero unless packed weights are old."""
    sync = {"sync_ref_model": True, "ref_model_sync_steps": 1, "ref_model_mixup_alpha": 1.0}
    callback = MXCallback(policy=mx_gradient, output_dir=workshop.folder, rollout_correction="off")
    trainer = workshop.trainer("grpo", [callback], beta=0.1, max_steps=3, **sync)
    trainer.ref_model.requires_grad_(False)  # or each step of the optimiser would have it packed anew
    trainer.train()
    assert [entry["kl"] for entry in losses(trainer) if "kl" in entry] == [0.0, 0.0, 0.0]


def test_without_a_sync_the_same_run_drifts(workshop: Workshop, mx_gradient: str) -> None:
    """Or the test above could not fail."""
    trainer, _ = trained(workshop, mx_gradient, beta=0.1, max_steps=3)
    assert [entry["kl"] for entry in losses(trainer) if "kl" in entry][-1] > 0.0


# ---------------------------------------------------------------------------- PEFT


def lora(**options: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(**({"r": 4, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"} | options))


def test_under_lora_base_layers_keep_their_plain_names_and_adapters_are_left_out(
    workshop: Workshop, tmp_path: Path
) -> None:
    policy = tmp_path / "by_name.yaml"
    policy.write_text(
        "version: 1\nname: by_name\ndefaults: {rollout: MXFP8}\nrules:\n"
        "  - {layers: model.layers.1.mlp, phases: [rollout], format: MXFP4}\n"
        "  - {layers: 'model.layers.0.*.q_proj', phases: [rollout], format: MXINT8}\n"
    )
    resolved, macs = [], []
    for run, extra in (("plain", {}), ("lora", {"peft_config": lora()})):
        callback = MXCallback(policy=str(policy), output_dir=tmp_path / run)
        workshop.trainer("grpo", [callback], out=f"{run}_trainer", extra=extra).train()
        assert callback.run_dir is not None
        config = config_of(callback.run_dir)
        resolved.append(config["formats"]["policy"]["rollout"])
        macs.append({row["format"]: row["macs"] for row in executed(callback.run_dir, phase="rollout", step="1")})
    assert resolved[0] == resolved[1]
    # LoRA starts as the identity: the first rollout is the same, and so is what its base layers execute.
    assert macs[0] == macs[1] and len(macs[0]) == 4
    left_out = {item["name"] for item in config["left_out"] if item["reason"] == "LoRA adapter"}
    assert len(left_out) == 2 * 2 * 2 and all(".lora_A." in name or ".lora_B." in name for name in left_out)


@pytest.mark.parametrize(("scoring", "expected"), [("gradient", "MXFP8/MXFP8"), ("rollout", "MXFP4/MXFP8")])
def test_a_reference_pass_on_the_policy_follows_policy_scoring(
    scoring: str, expected: str, workshop: Workshop, mx_gradient: str
) -> None:
    trainer, callback = trained(
        workshop, mx_gradient, mx={"policy_scoring": scoring}, beta=0.1, extra={"peft_config": lora()}
    )
    assert trainer.ref_model is None
    assert expected in formats_in(callback.run_dir)["reward"]["policy"]
    if scoring == "gradient":
        assert losses(trainer)[0]["kl"] == pytest.approx(0.0, abs=1e-12)


def test_a_trained_adapter_is_its_own_reference_and_the_gate_sees_no_kl(workshop: Workshop, mx_gradient: str) -> None:
    """TRL copies a given adapter to one named ``ref``; with adapters off the reference would be another model."""
    from peft import get_peft_model

    model = get_peft_model(workshop.policy(), lora(init_lora_weights=False))
    trainer, _ = trained(workshop, mx_gradient, model=model, beta=0.1)
    assert losses(trainer)[0]["kl"] == pytest.approx(0.0, abs=1e-9)
    assert trainer.state.log_history[0]["mx/mismatch/reference_kl"] == pytest.approx(0.0, abs=1e-9)


# ---------------------------------------------------------------------------- checkpointing, evaluation, resumption


def test_gradient_checkpointing_changes_no_result_and_books_the_recomputed_forward(
    workshop: Workshop, mx_gradient: str
) -> None:
    plain_run, kept = trained(workshop, mx_gradient, max_steps=1)
    whole, trunk = (macs_in(kept.run_dir, phase="gradient", step="1", **fmt) for fmt in ({}, {"format": "MXFP8/MXFP8"}))
    run, callback = trained(workshop, mx_gradient, max_steps=1, gradient_checkpointing=True)
    assert same_weights(run.model, plain_run.model)
    # Forward, dX and dW, and the forward of the trunk once more.
    assert macs_in(callback.run_dir, phase="gradient", step="1") == whole + trunk // 3


def test_evaluation_has_phases_of_its_own_and_is_no_rollout(workshop: Workshop, mx_gradient: str) -> None:
    _, before = trained(workshop, mx_gradient, beta=0.1)
    rollout = [macs_in(before.run_dir, phase="rollout", step=step) for step in ("1", "2")]
    trainer, callback = trained(
        workshop, mx_gradient, beta=0.1, eval_strategy="steps", eval_steps=1, per_device_eval_batch_size=4
    )
    found = formats_in(callback.run_dir)
    assert found["eval/rollout"] == {"policy": {"MXFP4/MXFP8", "MXFP8/MXFP8"}}
    assert "MXFP8/MXFP8" in found["eval/reward"]["reference"]
    assert macs_in(callback.run_dir, phase="rollout", step="1") == rollout[0]
    assert "eval/gradient" not in found
    logged = [entry for entry in trainer.state.log_history if "eval_reward" in entry]
    assert len(logged) == 2
    # metrics.csv has the rewards of training, one row a step.
    assert column(callback, "metrics.csv", "step") == ["1", "2"]


def test_a_resumed_run_continues_its_folder_without_a_gap_or_a_duplicate(workshop: Workshop, mx_gradient: str) -> None:
    config = {"save_strategy": "steps", "save_steps": 2}
    whole, callback = trained(workshop, mx_gradient, out="whole", max_steps=4, **config)
    expected = column(callback, "metrics.csv", "reward")
    assert column(callback, "metrics.csv", "step") == ["1", "2", "3", "4"]

    workshop.folder = workshop.folder / "again"
    first, _ = trained(workshop, mx_gradient, max_steps=4, **config)
    checkpoint = Path(first.args.output_dir) / "checkpoint-2"
    resumed, callback = trained(workshop, mx_gradient, resume=str(checkpoint), max_steps=4, **config)
    assert resumed.state.global_step == 4
    assert not list(workshop.folder.glob("policy_mx_gradient.*"))
    assert column(callback, "metrics.csv", "step") == ["1", "2", "3", "4"]
    steps = column(callback, "energy.csv", "step")
    assert [int(step) for step in steps] == sorted(int(step) for step in steps)
    assert set(steps) == {"1", "2", "3", "4", "5"}  # what ran after the last step is booked under the next
    keys = [(row["step"], row["phase"], row["role"], row["format"], row["dtype"], row["source"])
            for row in csv_rows(callback.run_dir, "energy.csv")]  # fmt: skip
    assert len(keys) == len(set(keys))
    logged = [json.loads(line) for line in (callback.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in logged if "loss" in record] == [1, 2, 3, 4]
    # TRL's own resumption is exact on one process, and MX adds no state of its own.
    assert column(callback, "metrics.csv", "reward") == expected
    assert same_weights(resumed.model, whole.model)


def test_an_lm_head_whose_forward_trl_replaced_is_left_out_and_listed(workshop: Workshop) -> None:
    _, callback = trained(workshop, "C8", cast_lm_head_to_fp32=True)
    left_out = {item.name: item.reason for item in callback.last_session.engine.left_out}
    assert left_out["lm_head"] == "its forward was replaced on the instance"
    assert len(callback.last_session.engine.hits()["policy"]["rollout"]) == len(TRUNK) * 2


# ---------------------------------------------------------------------------- ways to generate and to iterate


def test_one_rollout_serves_several_iterations(workshop: Workshop, mx_gradient: str) -> None:
    _, callback = trained(workshop, mx_gradient, num_iterations=2, max_steps=4)
    with_rollout = {row["step"] for row in executed(callback.run_dir, phase="rollout")}
    assert with_rollout == {"1", "3"}
    assert {row["step"] for row in executed(callback.run_dir, phase="gradient")} == {"1", "2", "3", "4"}
    # Old log-probs are recomputed on the policy, in the formats of its update: the ratio starts at 1.
    assert set(formats_in(callback.run_dir, step="1")["reward"]) == {"policy"}
    mismatch = column(callback, "metrics.csv", "mismatch")
    assert mismatch[0] and mismatch[2] and not mismatch[1] and not mismatch[3]


def test_rewards_of_several_functions_and_a_model_are_each_counted(workshop: Workshop, mx_gradient: str) -> None:
    scorer = workshop.scorer().requires_grad_(False)
    trainer, callback = trained(workshop, mx_gradient, rewards=[length_reward, scorer])
    assert formats_in(callback.run_dir)["reward"] == {"reward": {"MXFP6/MXFP8"}}
    names = callback.last_session.engine.hits()["reward"]["reward"]
    assert len(names) == len(TRUNK) and all(name.startswith("model.layers.0.") for name in names)
    assert any(key.startswith("rewards/length_reward") for key in losses(trainer)[0])
    assert plain(scorer)


def test_two_reward_models_are_told_apart_by_their_place(workshop: Workshop, mx_gradient: str) -> None:
    scorers = [workshop.scorer().requires_grad_(False) for _ in range(2)]
    _, callback = trained(workshop, mx_gradient, rewards=scorers)
    names = callback.last_session.engine.hits()["reward"]["reward"]
    assert {name.split(".")[0] for name in names} == {"0", "1"} and len(names) == 2 * len(TRUNK)


def test_continuous_batching_is_a_rollout_and_its_mismatch_is_measured(workshop: Workshop, mx_gradient: str) -> None:
    small = {"page_size": 32, "num_blocks": 16, "max_batch_tokens": 64}  # by default it takes all free memory
    trainer, callback = trained(
        workshop, mx_gradient, use_transformers_continuous_batching=True, transformers_continuous_batching_config=small
    )
    assert formats_in(callback.run_dir)["rollout"] == {"policy": {"MXFP4/MXFP8", "MXFP8/MXFP8"}}
    assert all(float(value) > 0 for value in column(callback, "metrics.csv", "mismatch"))
    assert trainer.state.log_history[0]["mx/mismatch/kl"] > 0
    [attention] = csv_rows(callback.run_dir, "energy.csv", step="1", phase="rollout", format="attention")
    assert int(attention["macs"]) > 0 and int(attention["bytes"]) > 0  # the paged cache is counted
