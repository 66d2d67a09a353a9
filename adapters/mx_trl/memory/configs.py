"""Model configs by name, folder or file; weights are neither there nor asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mx_plugin.errors import nearest

from ..errors import StageError

_LLAMA: dict[str, Any] = {"model_type": "llama", "tie_word_embeddings": True}

KNOWN: dict[str, dict[str, Any]] = {
    "stories15m": {
        **_LLAMA, "vocab_size": 32000, "hidden_size": 288, "intermediate_size": 768, "num_hidden_layers": 6,
        "num_attention_heads": 6, "num_key_value_heads": 6, "max_position_embeddings": 256,
    },
    "smollm2-135m": {
        **_LLAMA, "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192,
    },
    "qwen2.5-0.5b": {
        "model_type": "qwen2", "tie_word_embeddings": True, "vocab_size": 151936, "hidden_size": 896,
        "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
    },
}  # fmt: skip
"""Shapes that need no file: those of the models' own config.json (Karpathy's stories15M; Hugging Face's SmolLM2-135M;
Qwen's Qwen2.5-0.5B)."""


def load_config(model: str, trust_remote_code: bool = False) -> Any:
    """The transformers config of ``model``: one of :data:`KNOWN`, a folder, a ``config.json``, or a hub id.

    Raises:
        StageError: nothing of that name has a config that transformers reads.
    """
    from transformers import AutoConfig

    known = KNOWN.get(model.lower())
    try:
        if known is not None:
            return AutoConfig.for_model(**known)
        if Path(model).is_file():
            plain = json.loads(Path(model).read_text(encoding="utf-8"))
            return AutoConfig.for_model(**plain)
        return AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, TypeError, KeyError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise StageError(
            f"--model {model}: no model config there ({first}); give a folder with config.json, the file itself, a hub "
            f"id, or a shape that needs no file: {nearest(model, tuple(KNOWN))}"
        ) from error
