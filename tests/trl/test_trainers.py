"""One MXCallback, unmodified, on every trainer of TRL that trains a language model."""

from __future__ import annotations

import logging
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from .trainers import (
    MX_GRADIENT,
    TRUNK,
    Workshop,
    config_of,
    csv_rows,
    formats_in,
    losses,
    macs_in,
    plain,
    same_weights,
)

pytest.importorskip("trl")

from mx_plugin.execution.phases import TRACKER
from mx_trl import MXCallback, attach

if TYPE_CHECKING:
    from mx_trl.embedded import EmbeddedFolder

KINDS = ("grpo", "rloo", "dpo", "sft", "reward", "online_dpo")
GENERATING = {"grpo", "rloo", "online_dpo"}
SCORED_BY = {"rloo": "policy", "dpo": "reference", "online_dpo": "reference"}
"""Whose log-probs a trainer computes without gradients, in its default configuration."""

FUSED = {"sft"} if int(version("trl").split(".")[1]) < 13 else {"grpo", "rloo", "dpo", "sft"}
"""Trainers that read ``lm_head.weight`` in training and scoring, past the layer's forward."""


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
    workshop: Workshop, kind: str, policy: str, *, backend: str = "auto", **config: Any
) -> tuple[Any, MXCallback]:
    # Uncorrected: a correction takes one pass more, see test_rollout_correction.
    callback = MXCallback(policy=policy, output_dir=workshop.folder, backend=backend, rollout_correction="off")
    trainer = workshop.trainer(kind, [callback], **config)
    trainer.train()
    return trainer, callback


@pytest.mark.parametrize("kind", KINDS)
def test_policy_c8_generates_in_mxfp8_and_scores_and_trains_unquantised(kind: str, workshop: Workshop) -> None:
    trainer, callback = trained(workshop, kind, "C8")
    trains = "reward" if kind == "reward" else "policy"
    expected = {"gradient": {trains: {"FP16"}}}
    if kind in GENERATING:
        expected["rollout"] = {"policy": {"MXFP8/MXFP8"}}
    if kind in SCORED_BY:
        # The reference matches the policy's log-probs, which are computed in gradient's formats.
        expected["reward"] = {SCORED_BY[kind]: {"FP16"}}
    assert callback.run_dir is not None
    for step in ("1", "2"):
        assert formats_in(callback.run_dir, step=step) == expected
    assert plain(trainer.model)


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_with_quantised_gradients_trains_and_lm_head_stays_unquantised(
    kind: str, workshop: Workshop, mx_gradient: str
) -> None:
    trainer, callback = trained(workshop, kind, mx_gradient)
    trains = "reward" if kind == "reward" else "policy"
    head = set() if kind in FUSED or kind == "reward" else {"FP16"}
    expected = {"gradient": {trains: {"MXFP8/MXFP8"} | head}}
    if kind in GENERATING:
        expected["rollout"] = {"policy": {"MXFP4/MXFP8", "MXFP8/MXFP8"}}  # MXFP8 is lm_head's
    if kind in SCORED_BY:
        expected["reward"] = {SCORED_BY[kind]: {"MXFP8/MXFP8"} | head}
    assert callback.run_dir is not None
    for step in ("1", "2"):
        assert formats_in(callback.run_dir, step=step) == expected
    assert all(entry["loss"] == entry["loss"] for entry in losses(trainer) if "loss" in entry)


@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_executes_in_every_phase_of_its_role(kind: str, workshop: Workshop, mx_gradient: str) -> None:
    trainer, callback = trained(workshop, kind, mx_gradient)
    assert callback.last_session is not None
    engine = callback.last_session.engine
    hits = engine.hits()
    trains = "reward" if kind == "reward" else "policy"
    phases = {(trains, "gradient")}
    phases |= {("policy", "rollout")} if kind in GENERATING else set()
    phases |= {(SCORED_BY[kind], "reward")} if kind in SCORED_BY else set()
    assert {(role, phase) for role, by_phase in hits.items() for phase in by_phase} == phases
    for role, phase in phases:
        found = hits[role][phase]
        layers = trainer.model.config.num_hidden_layers
        assert sum(name.split(".")[-1] in TRUNK for name in found) == len(TRUNK) * layers
        fused = kind in FUSED and phase != "rollout"
        assert ("lm_head" in found) is not (fused or kind == "reward")


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_says_which_work_its_books_miss(kind: str, workshop: Workshop) -> None:
    _, callback = trained(workshop, kind, "C8")
    assert callback.run_dir is not None
    found = {(item["role"], item["phase"], item["layer"]) for item in config_of(callback.run_dir)["unbooked"]}
    expected = {("policy", "gradient", "lm_head")} if kind in FUSED else set()
    if kind in FUSED and kind in SCORED_BY:
        expected.add((SCORED_BY[kind], "reward", "lm_head"))
    assert found == expected
    told = "missing from energy.csv: policy:lm_head" in (callback.run_dir / "training_log.txt").read_text()
    assert told is bool(expected)


@pytest.mark.parametrize("kind", ["dpo", "online_dpo"])
def test_backward_is_booked_under_gradient_in_its_own_step_though_a_reference_scored_after_the_forward(
    kind: str, workshop: Workshop
) -> None:
    _, callback = trained(workshop, kind, "C8")
    assert callback.run_dir is not None
    for step in ("1", "2"):
        scored = macs_in(callback.run_dir, step=step, phase="reward")
        # One forward and two backward products on the tokens of which the reference did one forward.
        assert macs_in(callback.run_dir, step=step, phase="gradient") == 3 * scored > 0


def test_the_phase_is_gradient_from_the_loss_to_the_last_weight(workshop: Workshop) -> None:
    from trl import DPOTrainer

    seen: list[str] = []

    class Watched(DPOTrainer):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(*args, **kwargs)
            assert TRACKER.phase == "reward"  # the reference came last
            loss.register_hook(lambda _: seen.append(TRACKER.phase))
            return loss

    trainer = workshop.trainer("dpo", [MXCallback(policy="C8", output_dir=workshop.folder)], cls=Watched)
    trainer.model.get_input_embeddings().weight.register_hook(lambda _: seen.append(TRACKER.phase))
    trainer.train()
    assert set(seen) == {"gradient"} and len(seen) >= 4


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_policy_a_is_bit_identical_to_a_run_without_the_callback(kind: str, workshop: Workshop) -> None:
    bare = workshop.trainer(kind, out="bare")
    bare.train()
    trainer, _ = trained(workshop, kind, "A")
    assert losses(trainer) == losses(bare)
    assert same_weights(trainer.model, bare.model)


def test_quantised_gradients_do_change_the_run(workshop: Workshop, mx_gradient: str) -> None:
    """Or the comparison above could not fail."""
    bare = workshop.trainer("sft", out="bare")
    bare.train()
    trainer, _ = trained(workshop, "sft", mx_gradient)
    assert losses(trainer) != losses(bare)
    assert not same_weights(trainer.model, bare.model)


# ---------------------------------------------------------------------------- DPO, reward


def test_dpo_with_precomputed_reference_log_probs_has_no_scoring_phase(
    workshop: Workshop, mx_gradient: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        _, callback = trained(workshop, "dpo", mx_gradient, precompute_ref_log_probs=True)
    assert callback.run_dir is not None
    assert set(formats_in(callback.run_dir)) == {"gradient"}
    # They were made before the callback could act: unquantised, while the policy's own are not.
    assert "precompute_ref_log_probs" in caplog.text


def test_precomputed_reference_log_probs_need_no_warning_when_gradient_is_unquantised(
    workshop: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        trained(workshop, "dpo", "C8", precompute_ref_log_probs=True)
    assert "precompute_ref_log_probs" not in caplog.text


def test_dpo_starts_with_equal_policy_and_reference_though_gradient_is_quantised(
    workshop: Workshop, mx_gradient: str
) -> None:
    """Exactly so where one product serves training and scoring; else up to the order of a sum."""
    trainer, _ = trained(workshop, "dpo", mx_gradient, backend="reference")
    first = losses(trainer)[0]
    assert first["rewards/margins"] == 0.0 and first["rewards/chosen"] == 0.0


def test_dpo_starts_with_equal_models_up_to_the_order_of_a_sum_on_any_backend(
    workshop: Workshop, mx_gradient: str
) -> None:
    trainer, _ = trained(workshop, "dpo", mx_gradient)
    first = losses(trainer)[0]
    assert abs(first["rewards/margins"]) < 1e-5 and abs(first["rewards/chosen"]) < 1e-5


def test_the_model_of_a_reward_trainer_has_the_role_reward(workshop: Workshop, tmp_path: Path) -> None:
    policy = tmp_path / "by_role.yaml"
    policy.write_text(
        "version: 1\nname: by_role\ndefaults: {gradient: MXFP4}\nroles:\n  reward: {gradient: MXINT8/MXINT8}\n"
    )
    _, callback = trained(workshop, "reward", str(policy))
    assert callback.run_dir is not None
    assert formats_in(callback.run_dir) == {"gradient": {"reward": {"MXINT8/MXINT8"}}}
    left_out = {item.name: item.reason for item in callback.last_session.engine.left_out}  # type: ignore[union-attr]
    assert left_out["score"] == "score or value head"


def test_evaluation_of_a_trainer_that_does_not_generate_is_qualified(workshop: Workshop) -> None:
    _, callback = trained(workshop, "sft", "C8", eval_strategy="steps", eval_steps=1)
    assert callback.run_dir is not None
    # Policy passes without gradients take gradient's formats.
    assert formats_in(callback.run_dir)["eval/reward"] == {"policy": {"FP16"}}
    assert not csv_rows(callback.run_dir, "energy.csv", phase="reward")


# ---------------------------------------------------------------------------- attaching


def test_attach_is_the_explicit_form(workshop: Workshop) -> None:
    trainer = workshop.trainer("sft")
    callback = attach(trainer, policy="C8", output_dir=workshop.folder)
    trainer.train()
    assert callback.run_dir == workshop.folder / "policy_C8"
    assert formats_in(callback.run_dir) == {"gradient": {"policy": {"FP16"}}}


def test_attach_works_on_a_trainer_whose_train_never_calls_super(workshop: Workshop, mx_gradient: str) -> None:
    from trl import SFTTrainer

    class OwnLoop(SFTTrainer):
        def train(self, *_: Any, **__: Any) -> None:
            optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
            self.model.train()
            for _, inputs in zip(range(2), self.get_train_dataloader(), strict=False):
                self.compute_loss(self.model, self._prepare_inputs(inputs)).backward()
                optimizer.step()
                optimizer.zero_grad()

    trainer = workshop.trainer("sft", cls=OwnLoop)
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    callback = attach(trainer, policy=mx_gradient, output_dir=workshop.folder)
    trainer.train()
    assert callback.run_dir is not None
    assert formats_in(callback.run_dir) == {"gradient": {"policy": {"MXFP8/MXFP8"}}}
    assert plain(trainer.model)
    assert any(not torch.equal(before[name], weight) for name, weight in trainer.model.state_dict().items())


def test_a_trainer_class_defined_after_the_callback_is_served(workshop: Workshop) -> None:
    callback = MXCallback(policy="C8", output_dir=workshop.folder)
    from trl import SFTTrainer

    class Later(SFTTrainer):
        def train(self, *args: Any, **kwargs: Any) -> Any:
            return super().train(*args, **kwargs)

    workshop.trainer("sft", [callback], cls=Later).train()
    assert callback.run_dir is not None and formats_in(callback.run_dir)
