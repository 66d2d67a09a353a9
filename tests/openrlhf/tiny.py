"""A random Llama of 0.1 M parameters with a tokenizer of characters, and data for every recipe: made in a second."""

from __future__ import annotations

import json
from pathlib import Path

LETTERS = "abcdefghijklmnopqrstuvwxyz .,!?"


def tiny_model(folder: Path, seed: int = 0, intermediate_size: int = 144) -> Path:
    """Save model and tokenizer. Heads of 32 are the smallest of vLLM's CPU kernels; 144 leaves a ragged last block."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "</s>", "<unk>", *LETTERS]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    fast.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=intermediate_size, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256, tie_word_embeddings=False, initializer_range=0.2,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


REWARD = '''
"""The share of vowels in an answer."""
import torch


def reward_func(queries, prompts, labels, **kwargs):
    answers = [query[len(prompt):] for query, prompt in zip(queries, prompts)]
    rewards = torch.tensor([sum(c in "aeiou" for c in answer) / max(len(answer), 1) for answer in answers])
    return {"rewards": rewards, "scores": rewards, "extra_logs": {}}
'''


def write_data(folder: Path, rows: int = 16) -> dict[str, Path]:
    """prompts.jsonl, sft.jsonl, pairs.jsonl and reward.py."""
    beginnings = [f"the {LETTERS[i]}{LETTERS[-6 - i % 4]} {LETTERS[(3 * i) % 26]}" for i in range(rows)]
    tables = {
        "prompts": [{"input": text, "label": ""} for text in beginnings],
        "sft": [{"input": text, "output": text[::-1] + " end."} for text in beginnings],
        "pairs": [{"chosen": f"{text} aeio", "rejected": f"{text} xyzw"} for text in beginnings],
    }
    files = {}
    for name, table in tables.items():
        files[name] = folder / f"{name}.jsonl"
        files[name].write_text("".join(json.dumps(row) + "\n" for row in table))
    files["reward"] = folder / "reward.py"
    files["reward"].write_text(REWARD)
    return files
