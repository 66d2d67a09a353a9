"""SFT of the field's common decoders: their linear layers train in MX formats, and what cannot is left out by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

pytest.importorskip("trl")

from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from mx_plugin.config import MXConfig
from mx_trl.stages.final import FINAL

if TYPE_CHECKING:
    from mx_trl.embedded import EmbeddedFolder

MX_GRADIENT = """version: 1
name: mx_gradient
activations: MXFP8
defaults: {rollout: MXFP8, gradient: MXFP8}
"""
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
MLP = {"gate_proj", "up_proj", "down_proj"}

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
         "num_key_value_heads": 1, "max_position_embeddings": 64}  # fmt: skip
DECODERS: dict[str, tuple[Any, Any, dict[str, Any], set[str]]] = {
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, SHAPE, ATTENTION | MLP),
    "llama": (LlamaForCausalLM, LlamaConfig, SHAPE, ATTENTION | MLP),
    "gpt2": (GPT2LMHeadModel, GPT2Config, {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64},
             {"c_attn", "c_proj", "c_fc"}),
    "mamba": (MambaForCausalLM, MambaConfig, {"hidden_size": 32, "state_size": 4, "num_hidden_layers": 1,
                                              "time_step_rank": 32}, {"in_proj", "x_proj", "out_proj"}),
}  # fmt: skip


@pytest.fixture
def decoder(tmp_path: Path, embedded: EmbeddedFolder) -> Callable[[str], Path]:
    """``decoder("gpt2")``: the folder of a random model of that kind, one layer, with the embedded tokenizer."""

    def make(kind: str) -> Path:
        from mx_trl.models import load_tokenizer

        tokenizer = load_tokenizer(str(embedded.policy))
        model_class, config_class, shape, _ = DECODERS[kind]
        config = config_class(
            **shape, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
        )  # fmt: skip
        folder = tmp_path / "model"
        model_class(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.mark.parametrize("kind", DECODERS)
def test_every_linear_layer_trains_in_mx_and_the_model_loads_again(
    kind: str, decoder: Callable[[str], Path], stage: Callable[..., Any], tmp_path: Path
) -> None:
    policy = tmp_path / "mx_gradient.yaml"
    policy.write_text(MX_GRADIENT)
    built = stage("sft", MXConfig(policy=str(policy)), model=decoder(kind))
    summary = built.run()
    engine = built.callback.last_session.engine
    hit = {name.split(".")[-1] for name in engine.hits()["policy"]["gradient"]} - {"lm_head"}
    assert hit == DECODERS[kind][3]
    assert all(loss == loss for loss in summary.rewards)
    loaded = DECODERS[kind][0].from_pretrained(tmp_path / "sft" / FINAL).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in built.model.state_dict().items())


@pytest.mark.parametrize("kind", ["gpt2", "mamba"])
def test_policy_a_trains_as_plain_trl_does(
    kind: str, decoder: Callable[[str], Path], stage: Callable[..., Any], tmp_path: Path
) -> None:
    """Those whose layers are stored transposed, or partly read past their forward."""
    model = decoder(kind)
    # Each is trained as soon as it is built: GPT-2's dropout draws from the seed that building sets.
    plain = stage("sft", model=model, output_dir=str(tmp_path / "plain"))
    losses = plain.train().rewards
    with_mx = stage("sft", MXConfig(policy="A"), model=model)
    assert with_mx.train().rewards == losses
    mine, theirs = with_mx.model.state_dict(), plain.model.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_mambas_step_sizes_are_left_out_with_the_reason(
    decoder: Callable[[str], Path], stage: Callable[..., Any]
) -> None:
    built = stage("sft", MXConfig(policy="C8"), model=decoder("mamba"), max_steps=1)
    built.train()
    left_out = {item.name.split(".")[-1]: item.reason for item in built.callback.last_session.engine.left_out}
    assert left_out["dt_proj"].startswith("step sizes of a state-space layer")
