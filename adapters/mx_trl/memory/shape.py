"""The numbers of an architecture that decide about memory, read from its config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mx_plugin.errors import nearest

from ..errors import StageError

GATED = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
"""Decoders with RMSNorm, rotary positions and a gated MLP; qwen3 also normalises queries and keys."""

FAMILIES = (*GATED, "gpt2")


@dataclass(frozen=True)
class Shape:
    """``attention``: query heads times their size; ``keys``: those of keys (and of values). ``linear_inputs``: the sum
    of ``in`` over a layer's linear modules, ``linear_count`` their number."""

    family: str
    layers: int
    hidden: int
    inner: int
    heads: int
    key_heads: int
    head_size: int
    vocabulary: int
    tied: bool
    context: int | None

    @property
    def attention(self) -> int:
        return self.heads * self.head_size

    @property
    def keys(self) -> int:
        return self.key_heads * self.head_size

    @property
    def grouped(self) -> bool:
        """Several query heads share keys and values."""
        return self.key_heads < self.heads


def read_shape(config: Any, model: str = "model") -> Shape:
    """The shape that ``config`` describes.

    Raises:
        StageError: an architecture whose activations the planner has no formula for.
    """
    family = str(config.model_type)
    if family not in FAMILIES:
        raise StageError(
            f"--model {model} is a {family}: the planner has no formula for its activations. "
            f"{nearest(family, FAMILIES)}"
        )
    heads = int(config.num_attention_heads)
    hidden = int(config.hidden_size)
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * hidden
    context = getattr(config, "max_position_embeddings", None)
    return Shape(
        family=family,
        layers=int(config.num_hidden_layers),
        hidden=hidden,
        inner=int(inner),
        heads=heads,
        key_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_size=int(getattr(config, "head_dim", None) or hidden // heads),
        vocabulary=int(config.vocab_size),
        tied=bool(config.tie_word_embeddings),
        context=None if context is None else int(context),
    )
