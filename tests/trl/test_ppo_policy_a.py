"""Policy A quantises nothing: PPO must not be able to tell that MXCallback is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mx_trl import MXCallback

pytestmark = pytest.mark.trl("<1.13")


def lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=4, target_modules=["q_proj", "up_proj"], lora_dropout=0.0, task_type="CAUSAL_LM")


@pytest.mark.parametrize("with_peft", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_policy_a_trains_bit_for_bit_like_plain_trl(
    make_ppo: Callable[..., Any],
    numbers_of: Callable[..., Any],
    weights_of: Callable[..., Any],
    tmp_path: Path,
    dtype: torch.dtype,
    with_peft: bool,
) -> None:
    def train(name: str, *callbacks: Any) -> tuple[Any, Any, Any]:
        peft_config = lora() if with_peft else None
        trainer = make_ppo(tmp_path / name, callbacks, dtype=dtype, peft_config=peft_config, steps=3)
        before = weights_of(trainer)
        trainer.train()
        return numbers_of(trainer), before, weights_of(trainer)

    plain_log, plain_before, plain_after = train("plain")
    mx_log, mx_before, mx_after = train("mx", MXCallback(policy="A", output_dir=tmp_path / "runs"))

    assert len(plain_log) == 3
    assert mx_log == plain_log
    assert mx_after.keys() == plain_after.keys()
    differing = [name for name, weight in plain_after.items() if not torch.equal(weight, mx_after[name])]
    assert not differing
    # The comparison means something only if both models were trained at all.
    for part in ("policy.", "value_model."):
        assert any(not torch.equal(plain_before[n], plain_after[n]) for n in plain_after if n.startswith(part))
    assert all(torch.equal(plain_before[name], mx_before[name]) for name in plain_before)


def test_policy_c_does_not_train_like_plain_trl(
    make_ppo: Callable[..., Any], numbers_of: Callable[..., Any], tmp_path: Path
) -> None:
    plain = make_ppo(tmp_path / "plain")
    plain.train()
    quantised = make_ppo(tmp_path / "mx", [MXCallback(policy="C", output_dir=tmp_path / "runs")])
    quantised.train()
    assert numbers_of(plain) != numbers_of(quantised)


def test_policy_a_reports_a_mismatch_of_exactly_zero(
    make_ppo: Callable[..., Any], rows_of: Callable[..., Any], tmp_path: Path
) -> None:
    callback = MXCallback(policy="A", mismatch_every=1, output_dir=tmp_path)
    make_ppo(tmp_path, [callback]).train()
    assert [float(row["mismatch"]) for row in rows_of(callback.run_dir, "metrics.csv")] == [0.0, 0.0]


def test_policy_a_books_every_layer_unquantised(
    make_ppo: Callable[..., Any], rows_of: Callable[..., Any], tmp_path: Path
) -> None:
    callback = MXCallback(policy="A", output_dir=tmp_path)
    make_ppo(tmp_path, [callback]).train()
    formats = {row["format"] for row in rows_of(callback.run_dir, "energy.csv")}
    assert formats == {"all", "attention", "FP16"}
