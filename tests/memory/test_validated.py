"""A plan beside a real run in a fresh process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mx_trl.memory.request import Request
from mx_trl.memory.validate import compare

ALLOWANCE = 24e6
"""Bytes that a run of this size may be off beyond 10%: what the process loads on first use differs by machine."""

SHAPE = {
    "model_type": "llama", "tie_word_embeddings": True, "vocab_size": 24000, "hidden_size": 256,
    "intermediate_size": 704, "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 4,
    "max_position_embeddings": 128,
}  # fmt: skip


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text(json.dumps(SHAPE))
    return str(tmp_path)


def check(request: Request, phases: set[str]) -> None:
    found = compare(request, steps=2)
    assert {each.phase for each in found} == phases
    for each in found:
        assert abs(each.predicted - each.measured) <= 0.1 * each.measured + ALLOWANCE, each


@pytest.mark.trl("<1.13")
def test_ppo_under_c_needs_what_the_plan_says_in_each_phase(model: str) -> None:
    request = Request(model, policy="C", batch=4, prompt_length=32, response_length=32)
    check(request, {"rollout", "reward", "gradient", "other"})


def test_sft_without_a_policy_needs_what_the_plan_says(model: str) -> None:
    check(Request(model, stage="sft", batch=8, prompt_length=32, response_length=32), {"gradient", "other"})


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["dpo", "reward", "grpo", "sft"])
@pytest.mark.parametrize("policy", ["none", "C"])
@pytest.mark.parametrize("more", [{}, {"dtype": "bfloat16", "lora_r": 8}], ids=["float32", "bfloat16-lora"])
def test_other_stages_need_what_the_plan_says(model: str, stage: str, policy: str, more: dict[str, Any]) -> None:
    request = Request(model, stage=stage, policy=policy, batch=8, prompt_length=32, response_length=32, **more)
    for each in compare(request, steps=2):
        assert abs(each.predicted - each.measured) <= 0.1 * each.measured + ALLOWANCE, each
