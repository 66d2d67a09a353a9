"""Whatever happens in ``train()``, afterwards trainer, models and process are as they were."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks
from transformers import GenerationMixin, TrainerCallback

from mx_plugin.execution.layer import adopted
from mx_plugin.execution.phases import TRACKER
from mx_trl import MXCallback, attach
from mx_trl.models import load_scorer

pytestmark = pytest.mark.trl("<1.13")


class OutOfPatience(Exception):
    """What the user's own code raises."""


def impatient(embedded: Any, patience: int) -> Any:
    """The embedded reward model; it scores ``patience`` times, then raises."""
    reward = load_scorer(str(embedded.reward), "reward")
    calls = 0

    def raise_when_due(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > patience:
            raise OutOfPatience("the reward model has had enough")

    reward.model.register_forward_pre_hook(raise_when_due)
    return reward


def state_of(trainer: Any) -> dict[str, Any]:
    """Everything about trainer and process that adopting changes.

    Compared with plain TRL afterwards, not with the same trainer before: transformers leaves hooks of its
    own on models that have run.
    """
    models = [trainer.model, trainer.ref_model, trainer.reward_model]
    modules = [module for model in models if model is not None for module in model.modules()]
    return {
        "classes": [type(module) for module in modules],
        "adopted": [adopted(module) is not None for module in modules],
        "attributes": [sorted(module.__dict__) for module in modules],
        "hooks": [_hooks(module) for module in modules],
        "trainer": _METHODS & trainer.__dict__.keys(),
        "generate": GenerationMixin.generate,
        "generate_batch": getattr(GenerationMixin, "generate_batch", None),
        "optimizer_hooks": len(_global_optimizer_post_hooks),
        "phase": (TRACKER.phase, TRACKER.grad, list(TRACKER._stack), TRACKER._evaluating, list(TRACKER._listeners)),
    }


_METHODS = {"evaluate", "generate_completions", "predict", "train"}


def _hooks(module: nn.Module) -> tuple[int, ...]:
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_load_state_dict_post_hooks")
    return tuple(len(getattr(module, name)) for name in names)


def test_after_training_nothing_of_ours_is_left(make_ppo: Callable[..., Any], tmp_path: Path) -> None:
    plain = make_ppo(tmp_path / "plain")
    plain.train()
    trainer, during = make_ppo(tmp_path, [MXCallback(policy="C", output_dir=tmp_path)]), []

    class Witness(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            during.append(state_of(trainer))

    trainer.add_callback(Witness())
    trainer.train()
    expected = state_of(plain)
    assert state_of(trainer) == expected
    # While it ran, each of these was different: otherwise the line above would prove nothing.
    assert [key for key in expected if during[0][key] == expected[key]] == []


def test_an_exception_in_step_two_propagates_unchanged_and_leaves_nothing_of_ours(
    make_ppo: Callable[..., Any], rows_of: Callable[..., Any], embedded: Any, tmp_path: Path
) -> None:
    plain = make_ppo(tmp_path / "plain", reward=impatient(embedded, 1), steps=3)
    with pytest.raises(OutOfPatience):
        plain.train()
    callback = MXCallback(policy="C", output_dir=tmp_path)
    trainer = make_ppo(tmp_path, [callback], reward=impatient(embedded, 1), steps=3)
    with pytest.raises(OutOfPatience) as caught:
        trainer.train()
    assert type(caught.value) is OutOfPatience
    assert caught.value.args == ("the reward model has had enough",)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert state_of(trainer) == state_of(plain)

    assert callback.session is None
    assert [row["step"] for row in rows_of(callback.run_dir, "metrics.csv")] == ["1"]
    energy = rows_of(callback.run_dir, "energy.csv")
    assert {row["phase"] for row in energy if row["step"] == "1"} == {"rollout", "reward", "gradient", "other"}
    # Step 2 came as far as its scoring: that was executed, so it is booked.
    assert {row["phase"] for row in energy if row["step"] == "2"} >= {"rollout", "reward"}
    assert "OutOfPatience" in (callback.run_dir / "training_log.txt").read_text()


def test_after_an_exception_a_second_trainer_trains_as_in_a_fresh_process(
    make_ppo: Callable[..., Any], numbers_of: Callable[..., Any], embedded: Any, tmp_path: Path
) -> None:
    def train() -> Any:
        trainer = make_ppo(tmp_path, [MXCallback(policy="C", output_dir=tmp_path)])
        trainer.train()
        return numbers_of(trainer)

    expected = train()
    with pytest.raises(OutOfPatience):
        make_ppo(tmp_path, [MXCallback(policy="C", output_dir=tmp_path)], reward=impatient(embedded, 1)).train()
    assert train() == expected


def test_an_interruption_by_the_user_restores_too(make_ppo: Callable[..., Any], tmp_path: Path) -> None:
    class Interrupt(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

    plain = make_ppo(tmp_path / "plain", [Interrupt()])
    trainer = make_ppo(tmp_path, [MXCallback(policy="C", output_dir=tmp_path), Interrupt()])
    for interrupted in (plain, trainer):
        with pytest.raises(KeyboardInterrupt):
            interrupted.train()
    assert state_of(trainer) == state_of(plain)


def test_a_disk_that_is_full_does_not_hide_why_training_ended(
    make_ppo: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = MXCallback(policy="A", output_dir=tmp_path)

    def no_room(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    class FullDiskThenInterrupt(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            for file in callback.session.books.folder._files:
                file._write = no_room
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_ppo(tmp_path, [callback, FullDiskThenInterrupt()]).train()
    assert "rows of energy.csv" in caplog.text


@pytest.mark.parametrize("phase", ["rollout", "eval/rollout", "gradient"])
def test_an_exception_in_the_middle_of_any_phase_leaves_that_phase(
    make_ppo: Callable[..., Any], tmp_path: Path, phase: str
) -> None:
    trainer = make_ppo(tmp_path, [MXCallback(policy="C", output_dir=tmp_path)], num_sample_generations=1)
    layer = trainer.policy_model.model.layers[1].mlp.down_proj

    def raise_in_phase(*_: Any) -> None:
        if phase == TRACKER.phase:
            raise OutOfPatience

    layer.register_forward_hook(raise_in_phase)
    with pytest.raises(OutOfPatience):
        trainer.train()
    assert (TRACKER.phase, TRACKER._stack, TRACKER._evaluating) == ("other", [], 0)
    assert adopted(layer) is None


def test_another_callback_that_fails_before_the_first_step_leaves_nothing_of_ours(
    make_ppo: Callable[..., Any], tmp_path: Path
) -> None:
    class Refuse(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            raise OutOfPatience

    trainer = make_ppo(tmp_path, [MXCallback(policy="C", output_dir=tmp_path), Refuse()])
    before = state_of(trainer)
    with pytest.raises(OutOfPatience):
        trainer.train()
    assert state_of(trainer) == before


def test_two_trainers_one_after_the_other_have_books_of_their_own(
    make_ppo: Callable[..., Any], rows_of: Callable[..., Any], tmp_path: Path
) -> None:
    first, second = (MXCallback(policy=policy, output_dir=tmp_path) for policy in ("C", "A"))
    make_ppo(tmp_path, [first]).train()
    make_ppo(tmp_path, [second]).train()
    assert first.run_dir != second.run_dir
    formats = [{row["format"] for row in rows_of(c.run_dir, "energy.csv", phase="rollout")} for c in (first, second)]
    assert formats == [{"all", "attention", "MXFP4/MXFP8", "MXFP8/MXFP8"}, {"all", "attention", "FP16"}]


def test_a_trainer_without_a_callback_is_left_alone_beside_one_with_it(
    make_ppo: Callable[..., Any], numbers_of: Callable[..., Any], tmp_path: Path
) -> None:
    plain = make_ppo(tmp_path / "plain")
    plain.train()
    make_ppo(tmp_path / "mx", [MXCallback(policy="C", output_dir=tmp_path)]).train()
    again = make_ppo(tmp_path / "again")
    again.train()
    assert numbers_of(again) == numbers_of(plain)


def test_training_the_same_trainer_twice_keeps_the_first_run(make_ppo: Callable[..., Any], tmp_path: Path) -> None:
    callback = MXCallback(policy="C", output_dir=tmp_path)
    trainer = make_ppo(tmp_path, [callback], steps=1)
    trainer.train()
    trainer.train()
    assert callback.run_dir == tmp_path / "policy_C"
    assert (tmp_path / "policy_C.1" / "energy.csv").is_file()


# ---------------------------------------------------------------------------- how the callback meets its trainer


@pytest.mark.parametrize("how", ["added to an existing trainer", "attached to an existing trainer"])
def test_the_callback_may_come_after_the_trainer(
    make_ppo: Callable[..., Any], rows_of: Callable[..., Any], tmp_path: Path, how: str
) -> None:
    trainer = make_ppo(tmp_path)
    if how.startswith("added"):
        callback = MXCallback(policy="C", output_dir=tmp_path)
        trainer.add_callback(callback)
    else:
        callback = attach(trainer, policy="C", output_dir=tmp_path)
    trainer.train()
    assert rows_of(callback.run_dir, "energy.csv", phase="rollout", format="MXFP4/MXFP8")


def test_a_trainer_class_made_after_the_callback_is_followed_once_though_its_train_calls_super(
    make_ppo: Callable[..., Any], rows_of: Callable[..., Any], tmp_path: Path
) -> None:
    from trl.experimental.ppo import PPOTrainer

    callback = MXCallback(policy="C", output_dir=tmp_path)

    class OwnTrainer(PPOTrainer):
        def train(self) -> None:
            assert callback.session is not None
            super().train()

    make_ppo(tmp_path, [callback], trainer_class=OwnTrainer).train()
    assert rows_of(callback.run_dir, "energy.csv", phase="rollout", format="MXFP4/MXFP8")
    assert not (tmp_path / "policy_C.1").exists()


IMPORTED_LATER = """
import sys
from mx_trl import MXCallback
callback = MXCallback(policy="C")
assert not any(name.startswith("trl.") for name in sys.modules), "the order of this test is the point"
from trl.experimental.ppo import PPOTrainer
print(hasattr(PPOTrainer.train, "_mx_wrapped"))
"""


def test_a_trainer_class_imported_after_the_callback_was_made_is_followed_too() -> None:
    run = subprocess.run([sys.executable, "-c", IMPORTED_LATER], capture_output=True, text=True, check=False)
    assert run.stdout.split() == ["True"], run.stderr
