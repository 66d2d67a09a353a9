"""PPO, interrupted and resumed, is the unbroken run: weights, critic, optimiser and log."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.checkpoints.compared import differing, train_log, weights

pytest.importorskip("trl")

if TYPE_CHECKING:
    from mx_trl.stages.built import BuiltStage

Make = Callable[..., "BuiltStage"]

pytestmark = pytest.mark.trl("<1.13")


def _slow(policy: str | None) -> Any:
    return pytest.param(policy, marks=pytest.mark.slow)


@pytest.mark.parametrize("policy", [_slow(None), _slow("A"), _slow("C8"), "everything"])
def test_resumed_is_unbroken_bit_for_bit(policy: str | None, make_ppo: Make, mx_gradient: str, tmp_path: Path) -> None:
    # 13 prompts are three batches of 4: step 2 lies within an epoch, step 3 ends one.
    policy = mx_gradient if policy == "everything" else policy
    unbroken = make_ppo(tmp_path / "unbroken", policy)
    unbroken.train()
    for step in (2, 3):
        folder = tmp_path / f"from{step}"
        checkpoint = tmp_path / "unbroken" / "checkpoints" / f"checkpoint-{step}"
        resumed = make_ppo(folder, policy, resume_from_checkpoint=str(checkpoint))
        summary = resumed.train()
        assert summary.resumed_from == checkpoint and summary.steps == 5 == len(summary.rewards)
        assert differing(unbroken.trainer, resumed.trainer) == []
        assert train_log(folder) == train_log(tmp_path / "unbroken")


def test_what_was_stopped_in_time_goes_on_by_auto_in_the_same_folder(make_ppo: Make, tmp_path: Path) -> None:
    unbroken = make_ppo(tmp_path / "unbroken", "C8", save_strategy="no")
    unbroken.train()
    folder = tmp_path / "run"
    for step in range(1, 5):
        stage = make_ppo(folder, "C8", save_strategy="no", script={"max_minutes": 1e-9}, resume_from_checkpoint="auto")
        summary = stage.run()
        assert summary.stopped and summary.steps == step
        assert "stopped" in summary.line()
        assert not (folder / "checkpoints" / "final").exists()
    last = make_ppo(folder, "C8", save_strategy="no", resume_from_checkpoint="auto")
    assert not last.run().stopped
    assert differing(unbroken.trainer, last.trainer) == []
    assert train_log(folder) == train_log(tmp_path / "unbroken")
    rows = (folder / "policy_C8" / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["1", "2", "3", "4", "5"]
    assert (folder / "checkpoints" / "final" / "model.safetensors").is_file()


@pytest.mark.slow
def test_samples_for_the_log_leave_no_trace_in_training(make_ppo: Make, tmp_path: Path) -> None:
    # Held-out prompts are sampled from after every step; the resumed run samples where the unbroken one did.
    script = {"num_prompts": 17, "num_eval_prompts": 4}
    plain = make_ppo(tmp_path / "plain", script=script)
    plain.train()
    sampled = make_ppo(tmp_path / "sampled", script=script, num_sample_generations=5)
    sampled.train()
    assert differing(plain.trainer, sampled.trainer) == []
    checkpoint = tmp_path / "sampled" / "checkpoints" / "checkpoint-2"
    resumed = make_ppo(
        tmp_path / "resumed", script=script, num_sample_generations=2, resume_from_checkpoint=str(checkpoint)
    )
    sampled_at: list[int] = []
    batches = resumed.trainer.eval_dataloader
    resumed.trainer.eval_dataloader = _Noting(batches, lambda: sampled_at.append(resumed.trainer.state.global_step))
    resumed.train()
    assert differing(plain.trainer, resumed.trainer) == []
    assert sampled_at == [3, 5]  # 5 steps, 2 samples: every second, counted from the first


class _Noting:
    def __init__(self, loader: Any, note: Callable[[], None]) -> None:
        self.loader, self.note = loader, note

    def __iter__(self) -> Any:
        self.note()
        return iter(self.loader)


def test_adapters_resume_too(make_ppo: Make, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    lora = {"use_peft": True, "lora_r": 4, "lora_target_modules": ["q_proj", "v_proj"], "lora_task_type": "CAUSAL_LM"}
    unbroken = make_ppo(tmp_path / "unbroken", "C8", model=lora)
    unbroken.train()
    checkpoint = tmp_path / "unbroken" / "checkpoints" / "checkpoint-2"
    resumed = make_ppo(tmp_path / "resumed", "C8", model=lora, resume_from_checkpoint=str(checkpoint))
    resumed.train()
    assert any("lora" in name for name in weights(resumed.trainer))
    assert differing(unbroken.trainer, resumed.trainer) == []
    assert train_log(tmp_path / "resumed") == train_log(tmp_path / "unbroken")


def test_a_checkpoint_holds_a_policy_and_a_critic_that_load_and_no_pickle_of_an_optimiser(
    make_ppo: Make, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    stage = make_ppo(tmp_path, "C8", max_steps=1)
    stage.train()
    folder = tmp_path / "checkpoints" / "checkpoint-1"
    trained = weights(stage.trainer)
    for role, kind, path in (
        ("policy", AutoModelForCausalLM, folder),
        ("value_model", AutoModelForSequenceClassification, folder / "critic"),
    ):
        for name, tensor in kind.from_pretrained(path).state_dict().items():
            assert torch.equal(tensor, trained[f"{role}.{name}"]), name
    files = {path.name for path in folder.rglob("*") if path.is_file()}
    assert {"mx_state.json", "mx_state.safetensors", "trainer_state.json"} <= files
    assert {name for name in files if name.endswith((".pt", ".pth", ".bin", ".pkl"))} == {"training_args.bin"}
    json.loads((folder / "mx_state.json").read_text(), parse_constant=pytest.fail)


def test_a_checkpoint_of_other_batches_or_models_is_refused(make_ppo: Make, tmp_path: Path) -> None:
    from mx_trl.checkpoints.errors import CheckpointError

    make_ppo(tmp_path / "first", max_steps=1).train()
    checkpoint = tmp_path / "first" / "checkpoints" / "checkpoint-1"
    with pytest.raises(CheckpointError, match=r"'batch_size': 4.*'batch_size': 8"):
        make_ppo(tmp_path / "second", resume_from_checkpoint=str(checkpoint), per_device_train_batch_size=4).train()
    (checkpoint / "mx_state.json").unlink()
    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        make_ppo(tmp_path / "second", resume_from_checkpoint=str(checkpoint)).train()
    with pytest.raises(CheckpointError, match="no checkpoint there"):
        make_ppo(tmp_path / "second", resume_from_checkpoint=str(tmp_path)).train()
