"""The demo's policy: a random Qwen2 of some 150,000 weights that has read the toy language for a few seconds."""

from __future__ import annotations

import random

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

from .language import answer, prompts

WARM_UP_STEPS = 120
_ROWS, _RATE = 24, 6e-3
_IGNORED = -100


def make_policy(
    tokenizer: PreTrainedTokenizerBase, context: int, seed: int, steps: int = WARM_UP_STEPS
) -> Qwen2ForCausalLM:
    """Two layers, hidden 64, grouped-query attention, tied embeddings, float32; warmed up by ``steps`` steps of AdamW.

    Draws from torch's global generator: call it where that is restored (``torch.random.fork_rng``).
    """
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM(config).float()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    _warm_up(model, tokenizer, random.Random(seed), steps)
    return model.eval()


def _warm_up(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase, rng: random.Random, steps: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=steps)
    questions = prompts()
    model.train()
    for _ in range(steps):
        rows = [_dialogue(rng.choice(questions), tokenizer, rng) for _ in range(_ROWS)]
        batch = tokenizer(rows, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, _IGNORED)
        logits = model(**batch).logits
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=_IGNORED)
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()


def _dialogue(question: str, tokenizer: PreTrainedTokenizerBase, rng: random.Random) -> str:
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer(question.split()[-1], rng)},
    ]
    return str(tokenizer.apply_chat_template(messages, tokenize=False)).rstrip()
