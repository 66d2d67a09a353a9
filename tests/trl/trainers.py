"""Real trainers of every kind around tiny models: two steps take a second or two, the same arguments the same run."""

from __future__ import annotations

import csv
import importlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from mx_trl.embedded import EmbeddedFolder

SEED = 7
TRUNK = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

MX_GRADIENT = """
version: 1
name: mx_gradient
lm_head: {rollout: MXFP8}
defaults: {rollout: MXFP4, reward: MXFP6, gradient: MXFP8}
"""

ALL_MX = """
version: 1
name: all_mx
defaults: {rollout: MXFP8, reward: MXFP8, gradient: MXFP8}
"""

_CLASSES = {
    "grpo": ("trl", "GRPO"),
    "rloo": ("trl", "RLOO"),
    "dpo": ("trl", "DPO"),
    "sft": ("trl", "SFT"),
    "reward": ("trl", "Reward"),
    "online_dpo": ("trl.experimental.online_dpo", "OnlineDPO"),
}
_GENERATING = ("grpo", "rloo", "online_dpo")


@dataclass
class Workshop:
    """Makes trainers in ``folder`` from the embedded model (or ``model``)."""

    embedded: EmbeddedFolder
    folder: Path
    made: dict[str, Path] = field(default_factory=dict)

    # ------------------------------------------------------------------ models

    def tokenizer(self) -> Any:
        from mx_trl.models import load_tokenizer

        return load_tokenizer(str(self.embedded.policy))

    def policy(self, family: str = "qwen2", **options: Any) -> PreTrainedModel:
        """A causal model, loaded from a folder (TRL loads references from there): qwen2, llama or gpt2."""
        from mx_trl.models import load_policy

        path = self.embedded.policy if family == "qwen2" else self._saved(family)
        return load_policy(str(path), **options)

    def _saved(self, family: str) -> Path:
        if family not in self.made:
            path = self.folder / family
            tokenizer = self.tokenizer()
            torch.manual_seed(SEED)
            tiny_model(family, tokenizer).save_pretrained(path)
            tokenizer.save_pretrained(path)
            self.made[family] = path
        return self.made[family]

    def scorer(self, **options: Any) -> PreTrainedModel:
        """The embedded reward model."""
        from mx_trl.models import load_scorer

        return load_scorer(str(self.embedded.reward), "reward model", **options)

    # ------------------------------------------------------------------ trainers

    def trainer(
        self,
        kind: str,
        callbacks: Sequence[Any] = (),
        *,
        model: Any = None,
        cls: type | None = None,
        rewards: Sequence[Any] = (),
        rows: int = 16,
        out: str = "trainer",
        extra: dict[str, Any] | None = None,
        **config: Any,
    ) -> Any:
        """A trainer of that kind; ``config`` overrides its configuration, ``extra`` its other arguments."""
        from datasets import Dataset
        from transformers import set_seed

        set_seed(SEED)
        module, name = _CLASSES[kind]
        module = importlib.import_module(module)
        tokenizer = self.tokenizer()
        if model is None:
            model = self.scorer() if kind == "reward" else self.policy()
        keywords: dict[str, Any] = {}
        if kind in _GENERATING:
            functions = list(rewards) or [length_reward]
            keywords["reward_funcs"] = functions
            keywords["reward_processing_classes"] = [
                self.tokenizer() if isinstance(function, torch.nn.Module) else None for function in functions
            ]
        data = Dataset.from_list(records(kind)[: rows + 8])
        return (cls or getattr(module, f"{name}Trainer"))(
            model=model,
            args=getattr(module, f"{name}Config")(**(self._settings(kind, out) | config)),
            train_dataset=data.select(range(rows)),
            eval_dataset=data.select(range(rows, rows + 8)),
            processing_class=tokenizer,
            callbacks=list(callbacks),
            **(keywords | (extra or {})),
        )

    def _settings(self, kind: str, out: str) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "output_dir": str(self.folder / out),
            "per_device_train_batch_size": 4,
            "max_steps": 2,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "seed": SEED,
            "use_cpu": True,
            "bf16": False,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "gradient_checkpointing": False,
        }
        if kind in ("grpo", "rloo"):
            settings |= {"num_generations": 2, "max_completion_length": 8, "beta": 0.0}
        elif kind == "online_dpo":
            settings |= {"max_new_tokens": 8, "max_length": 48}
        else:
            settings |= {"max_length": 48, "dataset_num_proc": None}
        return settings


def tiny_model(family: str, tokenizer: Any) -> PreTrainedModel:
    """Two random layers, hidden 64, float32; its padding and end tokens are the tokenizer's."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    tokens = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
    }
    if family == "gpt2":
        return GPT2LMHeadModel(GPT2Config(**tokens, n_embd=64, n_layer=2, n_head=2, n_positions=64)).eval()
    if family == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**tokens, **sizes, tie_word_embeddings=True)).eval()
    return LlamaForCausalLM(LlamaConfig(**tokens, **sizes, tie_word_embeddings=False)).eval()


def records(kind: str) -> list[dict[str, str]]:
    """Rows of the shape that a trainer of that kind takes."""
    from mx_trl.embedded.language import prompts

    texts = prompts()
    if kind in _GENERATING:
        return [{"prompt": text} for text in texts]
    if kind == "sft":
        return [{"text": f"{text} the {text.split()[-1]} is good ."} for text in texts]
    return [{"prompt": text, "chosen": " the garden is good .", "rejected": " it was bad"} for text in texts]


def length_reward(completions: list[Any], **_: Any) -> list[float]:
    """A rule that tells completions apart: words that differ."""
    return [float(len(set(str(completion).split()))) for completion in completions]


# ---------------------------------------------------------------------------- what a run left


def csv_rows(run_dir: Path, file: str, **chosen: str) -> list[dict[str, str]]:
    """Records of one of the run's CSV files, chosen by column."""
    with (run_dir / file).open(newline="", encoding="utf-8") as lines:
        records = list(csv.DictReader(lines))
    return [record for record in records if all(record[column] == value for column, value in chosen.items())]


def config_of(run_dir: Path) -> dict[str, Any]:
    """The run's config.json."""
    config: dict[str, Any] = json.loads((run_dir / "config.json").read_text(encoding="utf-8"))
    return config


def executed(run_dir: Path, **chosen: str) -> list[dict[str, str]]:
    """Rows of energy.csv that linear layers filled: by role and format, with MACs, attention products apart."""
    rows = csv_rows(run_dir, "energy.csv", **chosen)
    return [row for row in rows if row["role"] != "all" and row["format"] != "attention" and int(row["macs"] or 0)]


def formats_in(run_dir: Path, **chosen: str) -> dict[str, dict[str, set[str]]]:
    """``{phase: {role: {format}}}`` of the rows with MACs that linear layers executed; ``other`` is left out."""
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for row in executed(run_dir, **chosen):
        if row["phase"] != "other":
            found[row["phase"]][row["role"]].add(row["format"])
    return {phase: dict(roles) for phase, roles in found.items()}


def macs_in(run_dir: Path, **chosen: str) -> int:
    """Sum of the MACs of linear layers in the chosen rows."""
    return sum(int(row["macs"]) for row in executed(run_dir, **chosen))


def losses(trainer: Any) -> list[dict[str, float]]:
    """The trainer's log without times and without our keys."""
    untimed = ("runtime", "per_second", "step_time", "time", "mx/")
    return [
        {k: v for k, v in entry.items() if not any(word in k for word in untimed)}
        for entry in trainer.state.log_history
    ]


def same_weights(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def plain(model: torch.nn.Module) -> bool:
    """True when no module of the model wears our class or carries our state."""
    from mx_plugin.execution.layer import adopted

    def ours(forward: Any) -> bool:
        return getattr(forward, "__module__", "") == "mx_plugin.execution.layer"

    return not any(
        adopted(module) or ours(type(module).forward) or any(map(ours, module.__dict__.values()))
        for module in model.modules()
    )
