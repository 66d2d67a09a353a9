"""The same seed gives the same run, and what we measure changes nothing of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from mx_cpu.reference import ReferenceBackend
from mx_plugin import plugins
from mx_plugin.hookspecs import hookimpl
from mx_plugin.interfaces import INTERFACE_VERSION
from mx_trl import MXCallback

pytestmark = pytest.mark.trl("<1.13")

STOCHASTIC = """
version: 1
name: stochastic
defaults:
  rollout: MXFP4
  reward: MXFP8
  gradient:
    forward: MXFP8/MXFP8
    dgrad: {format: MXFP4/MXFP4, rounding: stochastic, hadamard: true}
    wgrad: {format: MXFP4/MXFP4, rounding: stochastic, hadamard: true}
lm_head: {rollout: MXFP8}
"""


@pytest.fixture(params=["C", "stochastic"])
def policy(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Policy C, and one that trains in MXFP4 with stochastic rounding under a random transform."""
    if request.param == "C":
        return "C"
    path = tmp_path / "stochastic.yaml"
    path.write_text(STOCHASTIC)
    return str(path)


def untimed(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what the clock says."""
    return [{k: v for k, v in record.items() if k != "eps" and not k.endswith("seconds")} for record in records]


def test_the_same_seed_gives_the_same_run(
    make_ppo: Callable[..., Any],
    rows_of: Callable[..., Any],
    weights_of: Callable[..., Any],
    policy: str,
    tmp_path: Path,
) -> None:
    def train(name: str) -> tuple[Any, ...]:
        callback = MXCallback(policy=policy, output_dir=tmp_path / name)
        trainer = make_ppo(tmp_path / name, [callback])
        trainer.train()
        files = [untimed(rows_of(callback.run_dir, file)) for file in ("metrics.csv", "energy.csv")]
        return untimed(trainer.state.log_history), files, weights_of(trainer)

    log, files, weights = train("first")
    again_log, again_files, again_weights = train("second")
    assert again_log == log
    assert again_files == files
    assert all(torch.equal(weights[name], again_weights[name]) for name in weights)


def test_another_seed_rounds_otherwise(
    make_ppo: Callable[..., Any], numbers_of: Callable[..., Any], tmp_path: Path
) -> None:
    policy = tmp_path / "stochastic.yaml"
    policy.write_text(STOCHASTIC)

    class Reseeded(MXCallback):
        """The trainer draws as before; only the engine's seed differs."""

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            assert self.session is not None
            self.session.engine.seed += 1
            super().on_train_begin(*args, **kwargs)

    runs = []
    for kind in (MXCallback, Reseeded):
        trainer = make_ppo(tmp_path, [kind(policy=str(policy), output_dir=tmp_path)])
        trainer.train()
        runs.append(numbers_of(trainer))
    # The first rollout precedes every stochastic cast.
    assert runs[0][0]["objective/scores"] == runs[1][0]["objective/scores"]
    assert runs[0] != runs[1]


class KeepsKeys(ReferenceBackend):
    """Remembers the key of every stochastic cast."""

    keys: ClassVar[list[Any]] = []

    def fake_quantize(self, x: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        if options.get("key") is not None:
            self.keys.append(options["key"])
        return super().fake_quantize(x, *args, **options)


class KeepsKeysPlugin:
    """Registers it as a third party would."""

    MX_PLUGIN_INTERFACE = INTERFACE_VERSION

    @hookimpl
    def mx_register_backends(self, register: Any) -> None:
        register("keeps_keys", KeepsKeys)


def test_no_two_stochastic_casts_of_a_run_draw_from_the_same_stream(
    make_ppo: Callable[..., Any], tmp_path: Path
) -> None:
    policy = tmp_path / "stochastic.yaml"
    policy.write_text(STOCHASTIC)
    KeepsKeys.keys.clear()
    plugins.register(KeepsKeysPlugin(), "keeps_keys")
    try:
        make_ppo(tmp_path, [MXCallback(policy=str(policy), backend="keeps_keys", output_dir=tmp_path)]).train()
    finally:
        plugins.reset()
    # Two steps of two epochs of two micro-batches; 14 layers of policy and of value model; dgrad and wgrad of
    # two operands each.
    assert len(KeepsKeys.keys) == 2 * 2 * 2 * (14 + 14) * 4
    assert len(set(KeepsKeys.keys)) == len(KeepsKeys.keys)


def test_measuring_does_not_change_the_training(
    make_ppo: Callable[..., Any],
    numbers_of: Callable[..., Any],
    weights_of: Callable[..., Any],
    policy: str,
    tmp_path: Path,
) -> None:
    def train(name: str, every: int) -> tuple[Any, ...]:
        callback = MXCallback(policy=policy, mismatch_every=every, kl_every=every, output_dir=tmp_path / name)
        trainer = make_ppo(tmp_path / name, [callback], steps=3)
        trainer.train()
        measured = [
            sum(key.startswith(("mx/mismatch", "mx/kl")) for key in entry) for entry in trainer.state.log_history
        ]
        return numbers_of(trainer), weights_of(trainer), measured

    log, weights, measured = train("never", 0)
    watched_log, watched_weights, watched_measured = train("always", 1)
    assert measured == [5, 0, 0]
    assert watched_measured == [6, 5, 5]
    assert watched_log == log
    assert all(torch.equal(weights[name], watched_weights[name]) for name in weights)


def test_without_any_probe_the_training_is_the_same(
    make_ppo: Callable[..., Any], numbers_of: Callable[..., Any], policy: str, tmp_path: Path
) -> None:
    class Unwatched(MXCallback):
        """Not even the gate of step 0."""

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            assert self.session is not None
            self.session.probe = None
            super().on_train_begin(*args, **kwargs)

    runs = []
    for kind in (MXCallback, Unwatched):
        trainer = make_ppo(tmp_path, [kind(policy=policy, output_dir=tmp_path)])
        trainer.train()
        runs.append((numbers_of(trainer), any("mx/mismatch/kl" in entry for entry in trainer.state.log_history)))
    (watched, was_watched), (unwatched, was_not) = runs
    assert (was_watched, was_not) == (True, False)
    assert unwatched == watched
