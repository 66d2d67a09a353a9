"""Turns a quantised GGUF checkpoint into a plain model folder that can be trained, saved and served."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from .errors import StageError


def convert_gguf(source: str | Path, target: str | Path, dtype: str = "bfloat16") -> int:
    """Dequantise the one ``.gguf`` in ``source`` and save model and tokenizer to ``target``.

    ``source`` must hold ``config.json`` and the tokenizer beside the GGUF. The weights stay on the grid of
    the GGUF's own quantisation (bfloat16 rounds them once more); what was lost there does not come back.

    Returns:
        Number of parameters.

    Raises:
        StageError: no GGUF or more than one, no config, the ``gguf`` package missing, an unknown dtype.
    """
    source = Path(source)
    found = sorted(source.glob("*.gguf"))
    if len(found) != 1 or not (source / "config.json").is_file():
        names = ", ".join(path.name for path in found) or "none"
        raise StageError(f"{source} must hold config.json and exactly one .gguf file; .gguf files found: {names}")
    element = getattr(torch, dtype, None)
    if not isinstance(element, torch.dtype) or not element.is_floating_point:
        raise StageError(f"dtype {dtype!r} is not a floating torch dtype; use float32 or bfloat16")
    try:
        quantised = AutoModelForCausalLM.from_pretrained(source, gguf_file=found[0].name, dtype=torch.float32)
    except ImportError as error:
        raise StageError(f"reading {found[0].name} needs the gguf package: pip install gguf ({error})") from error
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source), dtype=torch.float32)
    model.load_state_dict(quantised.state_dict())
    model.tie_weights()
    if (source / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(source)
    model.to(element).save_pretrained(target)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)
    return sum(parameter.numel() for parameter in model.parameters())
