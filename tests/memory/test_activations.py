"""The formulas of activations against tensors that autograd really saves."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from mx_trl.memory.activations import Pass
from mx_trl.memory.roles import lora_config
from mx_trl.memory.shape import read_shape

BATCH, LENGTH = 3, 20
_SIZES = {"hidden_size": 96, "intermediate_size": 200, "num_attention_heads": 4, "num_key_value_heads": 2}
_RANDOM = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
DTYPES = {2: torch.bfloat16, 4: torch.float32}


def config_of(family: str, layers: int, **changes: Any) -> Any:
    sizes = {**_SIZES, "head_dim": 24} if family == "qwen3" else _SIZES
    own: dict[str, Any] = {"n_embd": 96, "n_head": 4, "n_layer": layers, **_RANDOM} if family == "gpt2" else sizes
    tokens = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    size = {} if family == "gpt2" else {"num_hidden_layers": layers}
    return AutoConfig.for_model(family, vocab_size=70, **own, **size, **tokens, **changes)


def saved_by(model: Any, padded: bool) -> int:
    """Bytes of all distinct memory that a forward pass keeps for backward, parameters left out."""
    known = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, int] = {}
    alive = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        memory = tensor.untyped_storage()
        if memory.data_ptr() not in known:
            kept[memory.data_ptr()] = memory.nbytes()
            alive.append(tensor)  # or its address would be used again
        return tensor

    ids = torch.randint(1, 70, (BATCH, LENGTH))
    mask = torch.ones_like(ids)
    mask[0, :2] = int(not padded)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(
            input_ids=ids, attention_mask=mask.bool(), position_ids=mask.cumsum(1) - mask
        )  # as TRL's PPO does
    assert output.logits.requires_grad
    return sum(kept.values())


def model_of(family: str, layers: int, element: int, lora_r: int = 0, checkpointing: bool = False) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(family, layers), dtype=DTYPES[element])
    if lora_r:
        model = peft.get_peft_model(model, lora_config(lora_r, "policy"))
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


@pytest.mark.parametrize("element", [4, 2], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("padded", [True, False], ids=["padded", "unpadded"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "gpt2"])
def test_a_layer_keeps_what_its_formula_says_to_the_byte(family: str, padded: bool, element: int) -> None:
    one, two = (saved_by(model_of(family, layers, element), padded) for layers in (1, 2))
    shape = read_shape(config_of(family, 1))
    assert two - one == Pass(shape, BATCH, LENGTH, element, padded).saved_layer()


@pytest.mark.parametrize("element", [4, 2], ids=["float32", "bfloat16"])
def test_a_layer_with_adapters_keeps_what_its_formula_says_to_the_byte(element: int) -> None:
    one, two = (saved_by(model_of("qwen2", layers, element, lora_r=8), True) for layers in (1, 2))
    shape = read_shape(config_of("qwen2", 1))
    assert two - one == Pass(shape, BATCH, LENGTH, element, True, lora_r=8).saved_layer()


@pytest.mark.parametrize("element", [4, 2], ids=["float32", "bfloat16"])
def test_a_checkpointed_layer_keeps_its_input(element: int) -> None:
    one, two = (saved_by(model_of("qwen2", layers, element, checkpointing=True), True) for layers in (1, 2))
    assert two - one == Pass(read_shape(config_of("qwen2", 1)), BATCH, LENGTH, element).hidden()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("element", [4, 2], ids=["float32", "bfloat16"])
def test_a_whole_trunk_keeps_what_its_formula_says(family: str, element: int) -> None:
    found = saved_by(model_of(family, 3, element), True)
    planned = Pass(read_shape(config_of(family, 3)), BATCH, LENGTH, element).saved()
    small = 2 * BATCH * LENGTH * 8 + BATCH * LENGTH * LENGTH  # token and position ids, the boolean mask
    assert abs(found - planned) <= small
