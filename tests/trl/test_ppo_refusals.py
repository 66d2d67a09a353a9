"""What cannot work is refused before the first step, in words that name the remedy, and nothing is changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mx_plugin.errors import AdoptionError, LedgerError, MatrixError, PluginError, PolicyError
from mx_plugin.execution.layer import adopted
from mx_trl import MXCallback

pytestmark = pytest.mark.trl("<1.13")


@pytest.fixture
def refused(
    make_ppo: Callable[..., Any], weights_of: Callable[[Any], dict[str, torch.Tensor]], tmp_path: Path
) -> Callable[..., str]:
    """``refused(error, *callbacks, **config)``: the message with which train() refuses, having changed nothing."""

    def refuse(error: type[Exception], *callbacks: Any, prepare: Any = None, **config: Any) -> str:
        trainer = make_ppo(tmp_path, callbacks, **config)
        if prepare is not None:
            prepare(trainer)
        before = weights_of(trainer)
        with pytest.raises(error) as caught:
            trainer.train()
        assert trainer.state.global_step == 0
        assert all(torch.equal(before[name], weight) for name, weight in weights_of(trainer).items())
        assert not any(adopted(module) for module in trainer.model.modules())
        assert all(callback.session is None for callback in callbacks)
        return str(caught.value)

    return refuse


# ---------------------------------------------------------------------------- the trainer


def test_two_callbacks_on_one_trainer_are_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    callbacks = [MXCallback(policy=policy, output_dir=tmp_path / "runs") for policy in ("C", "B")]
    message = refused(AdoptionError, *callbacks)
    assert "2 MXCallbacks (policies C, B)" in message
    assert "remove_callback" in message
    assert not (tmp_path / "runs").exists()


def test_once_the_second_callback_is_removed_the_trainer_trains(make_ppo: Callable[..., Any], tmp_path: Path) -> None:
    first, second = (MXCallback(policy=policy, output_dir=tmp_path) for policy in ("C", "B"))
    trainer = make_ppo(tmp_path, [first, second])
    with pytest.raises(AdoptionError):
        trainer.train()
    trainer.remove_callback(second)
    trainer.train()
    assert trainer.state.global_step == 2
    assert first.run_dir == tmp_path / "policy_C"


def test_a_layer_that_another_trainer_has_adopted_is_refused(make_ppo: Callable[..., Any], tmp_path: Path) -> None:
    outer = MXCallback(policy="A", output_dir=tmp_path / "outer")
    trainer = make_ppo(tmp_path / "outer", [outer])
    with outer.running(trainer):
        inner = make_ppo(tmp_path, [MXCallback(policy="C", output_dir=tmp_path)], policy=trainer.policy_model)
        with pytest.raises(AdoptionError, match=r"policy layer 'model\.layers\.0\..*' is already adopted"):
            inner.train()
        assert all(adopted(layer.module) is layer for layer in outer.session.engine.layers)


@pytest.mark.parametrize("asked", ["in the config", "on the model"])
def test_reentrant_checkpointing_is_refused(refused: Callable[..., str], tmp_path: Path, asked: str) -> None:
    reentrant = {"use_reentrant": True}
    config: dict[str, Any] = {}
    prepare = None
    if asked == "in the config":
        config = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": reentrant}
    else:
        prepare = lambda trainer: trainer.policy_model.gradient_checkpointing_enable(reentrant)  # noqa: E731
    message = refused(AdoptionError, MXCallback(policy="C", output_dir=tmp_path), prepare=prepare, **config)
    assert "gradient_checkpointing_kwargs={'use_reentrant': False}" in message


def test_checkpointing_that_is_not_reentrant_trains(make_ppo: Callable[..., Any], tmp_path: Path) -> None:
    trainer = make_ppo(tmp_path, [MXCallback(policy="C", output_dir=tmp_path)])
    trainer.policy_model.gradient_checkpointing_enable({"use_reentrant": False})
    trainer.train()
    assert trainer.state.global_step == 2


# ---------------------------------------------------------------------------- the output folder


def test_an_output_folder_that_is_a_file_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("in the way")
    message = refused(LedgerError, MXCallback(policy="C", output_dir=tmp_path / "runs"))
    assert str(tmp_path / "runs" / "policy_C") in message
    assert "choose another output_dir" in message
    assert (tmp_path / "runs").read_text() == "in the way"


# ---------------------------------------------------------------------------- the policy


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"policy": "C9"}, PolicyError, ("'C9'", "did you mean 'C")),
        ({"policy": "no/such/policy.yaml"}, PolicyError, ("no/such/policy.yaml",)),
        ({"policy": "D"}, PolicyError, ("sensitivity_matrix",)),
        ({"policy": "C", "backend": "cpuu"}, PluginError, ("'cpuu'", "did you mean 'cpu'")),
        ({"policy": "C", "meters": ["modeled"]}, PluginError, ("'modeled'", "did you mean 'modelled'")),
    ],
    ids=["policy", "file", "matrix", "backend", "meter"],
)
def test_what_does_not_exist_is_refused_with_the_nearest_word(
    refused: Callable[..., str], tmp_path: Path, options: dict[str, Any], error: type[Exception], words: tuple[str, ...]
) -> None:
    message = refused(error, MXCallback(output_dir=tmp_path / "runs", **options))
    for word in words:
        assert word in message
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("option", "nearest"),
    [({"polcy": "C"}, "'policy'"), ({"on_unhit": "wran"}, "'warn'"), ({"reference": "mach"}, "'match'")],
)
def test_a_misspelt_option_is_refused_when_the_callback_is_made(option: dict[str, str], nearest: str) -> None:
    with pytest.raises(PolicyError, match=f"did you mean {nearest}"):
        MXCallback(**option)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("version: 1\nname: x\ndefaults: {rollout: MXFP5}\n", (":3:", "'MXFP5'", "did you mean 'MXFP")),
        ("version: 1\nname: x\ndefaults: {rolout: MXFP4}\n", ("'rolout'", "did you mean 'rollout'")),
        ("version: 1\nname: x\nroles: {critic: {reward: MXFP4}}\n", ("'critic'",)),
        (
            "version: 1\nname: x\nrules:\n- {layers: '*.up_prj', format: MXFP4, phases: [rollout]}\n",
            ("*.up_prj", "up_proj"),
        ),
    ],
    ids=["format", "phase", "role", "layer"],
)
def test_a_yaml_policy_with_an_unknown_word_is_refused_by_file_and_word(
    refused: Callable[..., str], tmp_path: Path, text: str, words: tuple[str, ...]
) -> None:
    policy = tmp_path / "mine.yaml"
    policy.write_text(text)
    message = refused(PolicyError, MXCallback(policy=str(policy), output_dir=tmp_path / "runs"))
    for word in (str(policy), *words):
        assert word in message


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ("model.layers.0.mlp.up_proj,rollout,policy,MXFP4,cheap,kl,nats", "cheap"),
        ("model.layers.0.mlp.up_proj,rollout,policy,MXFP5,0.1,kl,nats", "MXFP5"),
        ("model.layers.0.mlp.up_proj,rollout,policy", "3 fields where the header has 7"),
    ],
    ids=["cost", "format", "short"],
)
def test_a_malformed_sensitivity_matrix_is_refused_by_line(
    refused: Callable[..., str], tmp_path: Path, row: str, word: str
) -> None:
    matrix = tmp_path / "matrix.csv"
    good = "model.layers.0.mlp.up_proj,rollout,policy,MXFP8,0.01,kl,nats"
    matrix.write_text(f"layer,phase,role,format,cost,metric,unit\n{good}\n{row}\n")
    callback = MXCallback(policy="D", sensitivity_matrix=str(matrix), max_cost=0.1, output_dir=tmp_path / "runs")
    message = refused(MatrixError, callback)
    assert f"{matrix}:3" in message
    assert word in message


def test_a_matrix_without_a_largest_cost_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    matrix = tmp_path / "matrix.csv"
    matrix.write_text(
        "layer,phase,role,format,cost,metric,unit\nmodel.layers.0.mlp.up_proj,rollout,policy,MXFP8,0.01,kl,nats\n"
    )
    message = refused(PolicyError, MXCallback(policy="D", sensitivity_matrix=str(matrix), output_dir=tmp_path))
    assert "max_cost" in message
