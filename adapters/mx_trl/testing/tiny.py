"""The training that the level runs: GRPO, two steps of four completions, a random Qwen2 of two layers."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

SEED = 7
STEPS = 2
CONTEXT = 64
COMPLETION = 6

LEARNING_RATE = 0.02
"""AdamW's first step moves each weight by it, about as far as random weights are spread: the next rollout's are new."""


@cache
def _start() -> tempfile.TemporaryDirectory[str]:
    """Tokenizer and random model in a folder, from which TRL loads the reference; made once a process."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from ..embedded.tokenizer import make_tokenizer

    folder = tempfile.TemporaryDirectory(prefix="mx_conformance_")
    tokenizer = make_tokenizer(CONTEXT)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    torch.manual_seed(SEED)
    Qwen2ForCausalLM(config).eval().save_pretrained(folder.name)
    tokenizer.save_pretrained(folder.name)
    return folder


def make_trainer(output: Path, callbacks: Sequence[Any]) -> Any:
    """A GRPOTrainer with a reference model, on the CPU; global random numbers are seeded.

    Completions have one length, so that sampling draws as often whatever the formats make of them.
    """
    from datasets import Dataset
    from transformers import PrinterCallback, set_seed
    from trl import GRPOConfig, GRPOTrainer

    from ..embedded.language import prompts
    from ..models import load_policy, load_tokenizer

    start = _start().name
    set_seed(SEED)
    trainer = GRPOTrainer(
        model=load_policy(start),
        reward_funcs=_different_words,
        args=GRPOConfig(
            output_dir=str(output / "trainer"),
            per_device_train_batch_size=4,
            num_generations=2,
            max_completion_length=COMPLETION,
            generation_kwargs={"min_new_tokens": COMPLETION},
            beta=0.05,
            max_steps=STEPS,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            logging_steps=1,
            seed=SEED,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list([{"prompt": text} for text in prompts()[:16]]),
        processing_class=load_tokenizer(start),
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _different_words(completions: list[str], **_: Any) -> list[float]:
    return [float(len(set(completion.split()))) for completion in completions]
