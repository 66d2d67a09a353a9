"""The run that ``--validate`` trains: TRL's own trainers on random weights and random words of the planned sizes."""

from __future__ import annotations

import importlib
import random
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
    PrinterCallback,
    ProgressCallback,
)

from .configs import load_config
from .request import Request
from .roles import lora_config, scorer_config

_PAD, _EOS = 0, 1
_ROWS = 8
"""Steps' worth of examples."""


def make_trial(request: Request, folder: Path, steps: int, callbacks: list[Any]) -> Any:
    """A trainer, ready for ``steps`` steps.

    Half of the sequences are a token shorter than planned, so that batches hold padding, unless the request says
    otherwise; generation has no end token where the trainer leaves that open.

    Raises:
        StageError: this trl has no such trainer, or a model's config cannot be read.
    """
    torch.manual_seed(0)
    trainer = _MAKERS[request.stage](request, folder, steps, callbacks)
    for printing in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printing)
    return trainer


def _arguments(config: type, request: Request, folder: Path, steps: int, **more: Any) -> Any:
    return config(
        output_dir=str(folder),
        per_device_train_batch_size=request.batch,
        gradient_accumulation_steps=request.accumulation,
        max_steps=steps,
        gradient_checkpointing=request.gradient_checkpointing,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
        **more,
    )


# ---------------------------------------------------------------------------- models


def _policy(request: Request) -> Any:
    config = load_config(request.model)
    config.pad_token_id, config.bos_token_id, config.eos_token_id = _PAD, None, None
    return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, request.dtype))


def _scorer(request: Request, model: str | None) -> Any:
    config = scorer_config(load_config(model or request.model))
    return AutoModelForSequenceClassification.from_config(config, dtype=getattr(torch, request.dtype))


def _adapters(request: Request, role: str = "policy") -> Any:
    return lora_config(request.lora_r, role) if request.lora_r else None


# ---------------------------------------------------------------------------- data


def tokenizer(size: int) -> Any:
    """``<pad>``, ``<eos>`` and the words ``t2``, ``t3``, ...: one token each.

    Special tokens are found inside words, too, so none may be how a word begins.
    """
    special = {"<pad>": _PAD, "<eos>": _EOS}
    words = Tokenizer(WordLevel({**special, **{f"t{n}": n for n in range(len(special), size)}}, unk_token="<pad>"))
    words.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", padding_side="left")


class _Words:
    """Random words of a vocabulary; every other sequence is a word shorter where there is to be padding."""

    def __init__(self, request: Request) -> None:
        self.size = int(load_config(request.model).vocab_size)
        self.shorter = int(request.padded)
        self.random = random.Random(0)

    def ids(self, number: int, length: int) -> list[int]:
        return [self.random.randrange(2, self.size) for _ in range(max(length - self.shorter * (number % 2), 1))]

    def text(self, number: int, length: int) -> str:
        return " ".join(f"t{token}" for token in self.ids(number, length))


def _rows(request: Request) -> int:
    return _ROWS * request.step_batch


# ---------------------------------------------------------------------------- stages


def _ppo(request: Request, folder: Path, steps: int, callbacks: list[Any]) -> Any:
    from ..stages.ppo import load_ppo

    config, trainer = load_ppo()
    words = _Words(request)
    # Padding is written out: whatever rows a batch draws, it is as wide as planned and holds some.
    prompts = [
        [_PAD] * words.shorter + words.ids(0, request.prompt_length - words.shorter) for _ in range(_rows(request))
    ]
    policy, value = _policy(request), _scorer(request, request.value_model)
    if request.gradient_checkpointing:  # TRL's PPO does not do it
        for model in (policy, value):
            model.gradient_checkpointing_enable({"use_reentrant": False})
    return trainer(
        args=_arguments(
            config, request, folder, -1,
            response_length=request.response_length, total_episodes=request.step_batch * steps, num_ppo_epochs=1,
            num_mini_batches=request.mini_batches, local_rollout_forward_batch_size=request.rollout_batch,
            num_sample_generations=0, lr_scheduler_type="constant",
        ),
        processing_class=tokenizer(words.size),
        model=policy,
        ref_model=None,
        reward_model=_scorer(request, request.reward_model).requires_grad_(False),
        value_model=value,
        train_dataset=Dataset.from_dict({"input_ids": prompts}),
        callbacks=callbacks,
        peft_config=_adapters(request),
    )  # fmt: skip


def _grpo(request: Request, folder: Path, steps: int, callbacks: list[Any]) -> Any:
    config, trainer = _named("GRPO")
    words = _Words(request)
    prompts = [words.text(number, request.prompt_length) for number in range(_rows(request))]
    kind = tokenizer(words.size)
    if request.reward_model in (None, "rule"):
        reward: Any = _length_reward
    else:
        reward = _scorer(request, request.reward_model).requires_grad_(False)
    policy = _policy(request)
    if request.beta and not request.lora_r:  # TRL reads the reference from where the policy came from
        policy.save_pretrained(folder / "policy")
        policy.config._name_or_path = str(folder / "policy")
    return trainer(
        model=policy,
        reward_funcs=[reward],
        reward_processing_classes=[None if callable(reward) and not hasattr(reward, "config") else kind],
        args=_arguments(
            config, request, folder, steps,
            max_completion_length=request.response_length, num_generations=request.generations, beta=request.beta,
        ),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=kind,
        callbacks=callbacks,
        peft_config=_adapters(request),
    )  # fmt: skip


def _length_reward(completions: list[str], **_: Any) -> list[float]:
    return [float(len(each)) for each in completions]


def _sft(request: Request, folder: Path, steps: int, callbacks: list[Any]) -> Any:
    config, trainer = _named("SFT")
    words = _Words(request)
    rows = [words.ids(number, request.length) for number in range(_rows(request))]
    return trainer(
        model=_policy(request),
        args=_arguments(config, request, folder, steps, max_length=request.length),
        train_dataset=Dataset.from_dict({"input_ids": rows}),
        processing_class=tokenizer(words.size),
        callbacks=callbacks,
        peft_config=_adapters(request),
    )


def _pairs(request: Request) -> Any:
    """The end token is added by TRL."""
    words, answer = _Words(request), max(request.response_length - 1, 1)
    rows = range(_rows(request))
    return Dataset.from_dict({
        "prompt": [words.text(0, request.prompt_length) + " " for _ in rows],
        "chosen": [words.text(0, answer) for _ in rows],
        "rejected": [words.text(1, answer) for _ in rows],
    })  # fmt: skip


def _dpo(request: Request, folder: Path, steps: int, callbacks: list[Any]) -> Any:
    config, trainer = _named("DPO")
    return trainer(
        model=_policy(request),
        ref_model=None if request.lora_r else _policy(request),
        args=_arguments(config, request, folder, steps, max_length=request.length),
        train_dataset=_pairs(request),
        processing_class=tokenizer(_Words(request).size),
        callbacks=callbacks,
        peft_config=_adapters(request),
    )


def _reward(request: Request, folder: Path, steps: int, callbacks: list[Any]) -> Any:
    config, trainer = _named("Reward")
    return trainer(
        model=_scorer(request, None),
        args=_arguments(config, request, folder, steps, max_length=request.length + 8),
        train_dataset=_pairs(request),
        processing_class=tokenizer(_Words(request).size),
        callbacks=callbacks,
        peft_config=_adapters(request, "reward"),
    )


def _named(name: str) -> tuple[Any, Any]:
    trl = importlib.import_module("trl")
    return getattr(trl, f"{name}Config"), getattr(trl, f"{name}Trainer")


_MAKERS = {"ppo": _ppo, "grpo": _grpo, "sft": _sft, "dpo": _dpo, "reward": _reward}


def prepare(request: Request) -> None:
    """Import the trainer and the model's code, which transformers and trl do on first use.

    Raises:
        StageError: this trl has no such trainer.
    """
    if request.stage == "ppo":
        from ..stages.ppo import load_ppo

        load_ppo()
    else:
        _named({"sft": "SFT", "dpo": "DPO", "grpo": "GRPO", "reward": "Reward"}[request.stage])
    with torch.device("meta"):
        AutoModelForCausalLM.from_config(load_config(request.model))
