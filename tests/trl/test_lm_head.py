"""Policy C's lm_head: packed apart from the embedding to which it is tied, and used in rollout only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mx_plugin import fake_quantize, get_backend, load_policy, quantize
from mx_plugin.execution.engine import Engine
from mx_plugin.execution.phases import ROLLOUT
from mx_plugin.interfaces import Backend
from mx_plugin.precision import PolicyProvider


@dataclass
class Adopted:
    """A tied model under policy C, its backend, and the embedding's weight as it was."""

    model: Any
    engine: Engine
    backend: Backend
    before: torch.Tensor


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=str)
def tied(request: pytest.FixtureRequest) -> Iterator[Adopted]:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=100, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).to(request.param).eval()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    backend = get_backend("cpu")
    with Engine(PolicyProvider(load_policy("C")), backend) as engine:
        engine.adopt({"policy": model})
        yield Adopted(model, engine, backend, model.lm_head.weight.detach().clone())
    backend.close()


def packed_head(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The definition, from the public casts."""
    w = quantize(weight, "MXFP8", scale_rule="rceil").dequantize(torch.float32)
    return F.linear(fake_quantize(x, "MXFP8", scale_rule="rceil").float(), w).to(x.dtype)


def hidden(tied: Adopted) -> torch.Tensor:
    return torch.randn(3, 64, dtype=tied.before.dtype)


def test_the_head_generates_in_mxfp8_and_scores_and_trains_unquantised(tied: Adopted) -> None:
    head, x = tied.model.lm_head, hidden(tied)
    with torch.no_grad():
        with tied.engine.phase(ROLLOUT):
            generated = head(x)
        loaded = tied.backend.counters().weights_loaded
        scored = head(x)
    trained = head(x)
    plain = F.linear(x, tied.before)
    torch.testing.assert_close(generated, packed_head(x, tied.before))
    assert not torch.allclose(generated, plain)
    assert torch.equal(scored, plain) and torch.equal(trained, plain)
    assert loaded == 1 == tied.backend.counters().weights_loaded, "one packed copy, made for the rollout"


def test_the_embedding_stays_as_it_is_and_stays_tied(tied: Adopted) -> None:
    embedding, tokens = tied.model.model.embed_tokens, torch.arange(100)
    with tied.engine.phase(ROLLOUT), torch.no_grad():
        tied.model.lm_head(hidden(tied))
        looked_up = embedding(tokens)
    assert torch.equal(looked_up, tied.before), "rows are looked up, never decoded from MX"
    assert embedding.weight is tied.model.lm_head.weight
    assert torch.equal(embedding.weight, tied.before)
    assert embedding.weight.dtype == tied.before.dtype and embedding.weight.requires_grad


def test_training_the_embedding_repacks_the_head(tied: Adopted) -> None:
    head, x = tied.model.lm_head, hidden(tied)
    with tied.engine.phase(ROLLOUT), torch.no_grad():
        head(x)
    optimizer = torch.optim.SGD([tied.model.model.embed_tokens.weight], lr=0.1)
    tied.model(torch.arange(10)[None]).logits.float().square().mean().backward()
    optimizer.step()
    after = head.weight.detach().clone()
    assert not torch.equal(after, tied.before)
    with tied.engine.phase(ROLLOUT), torch.no_grad():
        torch.testing.assert_close(head(x), packed_head(x, after))
