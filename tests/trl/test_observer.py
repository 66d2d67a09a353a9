"""An observer is there for the whole of ``train()`` and sees its phases, with an MXCallback beside it or without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .trainers import Workshop

pytest.importorskip("trl")

from mx_plugin.execution.phases import TRACKER
from mx_trl import MXCallback
from mx_trl.observer import Observer

if TYPE_CHECKING:
    from mx_trl.embedded import EmbeddedFolder


class Watching(Observer):
    """Writes down the phases that it is told, and what its trainer's log held."""

    def __init__(self) -> None:
        super().__init__()
        self.phases: list[str] = []
        self.log_keys: set[str] = set()
        self.trainer: Any = None
        self.entered = self.left = 0

    @contextmanager
    def observing(self, trainer: Any) -> Iterator[None]:
        self.trainer, self.entered = trainer, self.entered + 1
        TRACKER.subscribe(self.phases.append)
        try:
            yield
        finally:
            TRACKER.unsubscribe(self.phases.append)
            self.left += 1

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        self.log_keys |= set(logs or {})
        if logs is not None:
            logs["observer/seen"] = 1.0


@pytest.mark.trl("<1.13")
def test_ppo_phases_are_the_same_with_and_without_mx(make_ppo: Callable[..., Any], tmp_path: Path) -> None:
    alone, beside = Watching(), Watching()
    make_ppo(tmp_path / "alone", [alone]).train()
    make_ppo(tmp_path / "beside", [beside, MXCallback(policy="A", kl_every=0, output_dir=tmp_path)]).train()
    assert [phase for phase in alone.phases if phase != "other"] == ["rollout", "reward", "gradient"] * 2
    assert alone.phases == beside.phases
    assert "mx/rollout/seconds" in beside.log_keys
    assert "mx/rollout/seconds" not in alone.log_keys


@pytest.mark.trl("<1.13")
def test_an_observer_knows_its_trainer_and_writes_into_the_log_before_reporters(
    make_ppo: Callable[..., Any], tmp_path: Path
) -> None:
    watching = Watching()
    trainer = make_ppo(tmp_path, [watching])
    trainer.train()
    assert watching.trainer is trainer
    assert trainer.state.log_history
    assert trainer.callback_handler.callbacks[0] is watching


@pytest.mark.trl("<1.13")
def test_an_observer_leaves_when_training_raises(make_ppo: Callable[..., Any], tmp_path: Path) -> None:
    class Failing(Watching):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            raise RuntimeError("the disk is on fire")

    failing = Failing()
    trainer = make_ppo(tmp_path, [failing])
    callbacks = list(trainer.callback_handler.callbacks)
    with pytest.raises(RuntimeError, match="on fire"):
        trainer.train()
    assert (failing.entered, failing.left) == (1, 1)
    assert set(callbacks) == set(trainer.callback_handler.callbacks)
    trainer.remove_callback(failing)
    trainer.train()
    assert failing.entered == 1


@pytest.mark.parametrize("kind", ["sft", "dpo", "grpo", "reward"])
def test_every_trainer_shows_its_phases_and_rests_at_the_end_of_a_step(
    embedded: EmbeddedFolder, tmp_path: Path, kind: str
) -> None:
    alone, beside = Watching(), Watching()
    workshop = Workshop(embedded, tmp_path)
    workshop.trainer(kind, [alone]).train()
    workshop.trainer(kind, [MXCallback(policy="A", kl_every=0, output_dir=tmp_path), beside]).train()
    worked = [phase for phase in alone.phases if phase != "other"]
    assert worked == [phase for phase in beside.phases if phase != "other"]
    assert worked.count("gradient") >= 2
    assert ("rollout" in worked) == (kind == "grpo")
    assert alone.phases[-1] == "other"
