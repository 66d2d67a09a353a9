"""The PPO run that ``mx-plugin bench step`` measures: TRL's PPOTrainer on random models of one shape."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    PreTrainedTokenizerFast,
    PrinterCallback,
    ProgressCallback,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2ForSequenceClassification,
)

from ..stages.ppo import load_ppo

BATCH, PROMPT, RESPONSE = 4, 64, 64
"""Sequences of a step, and tokens of each prompt and response."""

MEASURED_STEPS = 2
"""Of each ``train()``; one more runs before them, unmeasured: it packs, gates and allocates."""


PAD = 0
"""Token that fills up; prompts hold it nowhere."""


def model_of_46_million() -> Qwen2Config:
    """12 layers, hidden 512: 46 million weights with the embeddings, which are tied."""
    return Qwen2Config(
        vocab_size=10000,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=12,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=PROMPT + RESPONSE,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=PAD,
    )


def make_trainer(folder: Path, dtype: torch.dtype, config: Qwen2Config | None = None, device: str = "cpu") -> Any:
    """A PPOTrainer whose policy, reference, value and reward model all have one shape; TRL's own defaults otherwise.

    No end token: every response is as long as it may be. Every prompt is as long as the others.

    Raises:
        StageError: this trl has no PPO.
    """
    ppo_config, ppo_trainer = load_ppo()
    config = config or model_of_46_million()
    scorer = copy.deepcopy(config)
    scorer.num_labels, scorer.tie_word_embeddings = 1, False
    reward, value = (Qwen2ForSequenceClassification(scorer).to(dtype) for _ in range(2))
    prompts = torch.randint(PAD + 1, config.vocab_size, (8 * BATCH, PROMPT)).tolist()
    arguments = ppo_config(
        output_dir=str(folder / str(dtype)),
        per_device_train_batch_size=BATCH,
        response_length=RESPONSE,
        total_episodes=BATCH * (1 + MEASURED_STEPS),
        lr_scheduler_type="constant",
        num_sample_generations=0,
        save_strategy="no",
        report_to="none",
        use_cpu=device == "cpu",
        bf16=False,
        gradient_checkpointing=False,
    )
    trainer = ppo_trainer(
        args=arguments,
        processing_class=_tokenizer(config.vocab_size),
        model=Qwen2ForCausalLM(copy.deepcopy(config)).to(dtype),
        ref_model=None,
        reward_model=reward.requires_grad_(False),
        value_model=value,
        train_dataset=Dataset.from_dict({"input_ids": prompts}),
    )
    for printing in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printing)
    return trainer


def _tokenizer(size: int) -> PreTrainedTokenizerFast:
    """Words ``t0``, ``t1``, ...: nothing is read or written here, only padded."""
    words = Tokenizer(WordLevel({f"t{number}": number for number in range(size)}, unk_token="t0"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token=f"t{PAD}", eos_token="t1", padding_side="left")


@contextmanager
def products_in_bf16(trainer: Any) -> Iterator[None]:
    """Every forward and generation under autocast: a float32 model multiplies in bfloat16, and nothing is cast to MX.

    Weights are converted once a forward or generation, which is what autocast's cache does for it.
    """
    roots = [trainer.policy_model, trainer.ref_model, trainer.value_model, trainer.reward_model]
    shadowed = [(each, "forward") for root in roots for each in (root, getattr(root, root.base_model_prefix))]
    shadowed.append((trainer.policy_model, "generate"))
    before = [(module, name, module.__dict__.get(name)) for module, name in shadowed]
    for module, name in shadowed:
        module.__dict__[name] = partial(_under_autocast, roots[0].device.type, getattr(module, name))
    try:
        yield
    finally:
        for module, name, own in before:
            if own is None:
                del module.__dict__[name]
            else:
                module.__dict__[name] = own


def _under_autocast(kind: str, method: Any, *args: Any, **kwargs: Any) -> Any:
    with torch.autocast(kind, torch.bfloat16):
        return method(*args, **kwargs)
