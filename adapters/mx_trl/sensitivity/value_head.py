"""Reward models: sequence classifiers, and causal models that carry TRL's value head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.utils import cached_file

from ..errors import StageError
from ..models import load_policy, load_scorer

_WEIGHT, _BIAS = "v_head.summary.weight", "v_head.summary.bias"


class ValueHeadModel(nn.Module):
    """A backbone and a linear value head: token ids -> one value a position, (sequences, length, 1)."""

    def __init__(self, backbone: nn.Module, v_head: nn.Linear) -> None:
        super().__init__()
        self.backbone = backbone
        self.v_head = v_head
        self.config = backbone.config

    def forward(self, **inputs: Any) -> torch.Tensor:
        """Values of every position, in the head's dtype."""
        hidden: torch.Tensor = self.backbone(**inputs)[0]
        values: torch.Tensor = self.v_head(hidden.to(self.v_head.weight.dtype))
        return values


class Critic(nn.Module):
    """A sequence classifier that scores every position, as PPO's critic does: token ids -> (sequences, length, 1).

    Its layers keep the classifier's names.
    """

    def __init__(self, classifier: Any, head: nn.Module) -> None:
        super().__init__()
        self.prefix: str = classifier.base_model_prefix
        self.add_module(self.prefix, classifier.base_model)
        self.score = head
        self.config = classifier.config

    def forward(self, **inputs: Any) -> torch.Tensor:
        """Scores of every position, in the head's dtype."""
        values: torch.Tensor = self.score(getattr(self, self.prefix)(**inputs)[0])
        return values


def as_critic(model: nn.Module) -> nn.Module:
    """A model with a value a position.

    Raises:
        StageError: a classifier whose head is no ``score``.
    """
    if isinstance(model, ValueHeadModel):
        return model
    head = getattr(model, "score", None)
    if not isinstance(head, nn.Module):
        raise StageError(f"{type(model).__name__} has no head named score that could value every position")
    return Critic(model, head)


def load_reward_model(path: str, **options: Any) -> nn.Module:
    """A sequence classifier, or, where the weights hold ``v_head``, a causal model with its value head.

    Raises:
        StageError: nothing there that can be loaded; a classifier without a trained head.
    """
    head = _value_head(path)
    if head is None:
        return _classifier(path, options)
    policy = load_policy(path, **options)
    weight = head[_WEIGHT]
    linear = nn.Linear(weight.shape[1], 1, bias=_BIAS in head, dtype=policy.dtype)
    linear.weight.data.copy_(weight)
    if _BIAS in head:
        linear.bias.data.copy_(head[_BIAS])
    return ValueHeadModel(policy.base_model, linear)


def _classifier(path: str, options: dict[str, Any]) -> nn.Module:
    model, loaded = load_scorer(path, "reward model", output_loading_info=True, **options)
    missing = [name for name in loaded["missing_keys"] if "score" in name or "classifier" in name]
    if missing:
        raise StageError(
            f"the reward model {path} has no trained head ({', '.join(sorted(missing))} is missing), so its scores "
            "would mean nothing; give a trained one"
        )
    found: nn.Module = model
    return found


def _value_head(path: str) -> dict[str, torch.Tensor] | None:
    """The value head's tensors, None where the weights have none."""
    from safetensors import safe_open

    for file in _weight_files(path):
        with safe_open(str(file), framework="pt") as tensors:
            names = set(tensors.keys())
            if _WEIGHT in names:
                return {name: tensors.get_tensor(name) for name in (_WEIGHT, _BIAS) if name in names}
    return None


def _weight_files(path: str) -> list[Path]:
    index = cached_file(path, "model.safetensors.index.json", _raise_exceptions_for_missing_entries=False,
                        _raise_exceptions_for_connection_errors=False)  # fmt: skip
    if index is not None:
        names = sorted(set(json.loads(Path(index).read_text("utf-8"))["weight_map"].values()))
        return [Path(index).parent / name for name in names]
    single = cached_file(path, "model.safetensors", _raise_exceptions_for_missing_entries=False,
                         _raise_exceptions_for_connection_errors=False)  # fmt: skip
    return [] if single is None else [Path(single)]
