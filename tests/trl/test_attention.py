"""Attention products are counted from shapes, when they are executed."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from mx_plugin.interfaces import Work
from mx_trl.attention import counting_attention

HEADS, HEAD_DIM, LAYERS, TOKENS, ROWS = 4, 8, 2, 10, 3
FORWARD = LAYERS * 2 * ROWS * HEADS * TOKENS * TOKENS * HEAD_DIM


def attention_macs(*, checkpointed: bool = False, backward: bool = True) -> int:
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=HEADS * HEAD_DIM, num_hidden_layers=LAYERS, num_attention_heads=HEADS, num_key_value_heads=2,
            intermediate_size=64, vocab_size=50,
        )
    ).train()  # fmt: skip
    if checkpointed:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    works: list[Work] = []
    with counting_attention({"policy": model}, works.append):
        loss = model(input_ids=torch.arange(TOKENS).expand(ROWS, -1)).logits.sum()
        if backward:
            loss.backward()
    assert {work.role for work in works} == {"policy"}
    return sum(work.macs for work in works)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_backward_costs_twice_the_forward_and_is_counted_when_it_happens() -> None:
    assert attention_macs(backward=False) == FORWARD
    assert attention_macs() == 3 * FORWARD


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_checkpointing_adds_one_forward_and_no_backward() -> None:
    assert attention_macs(checkpointed=True) == 4 * FORWARD
