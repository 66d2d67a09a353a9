"""Models of an export: which class they are, and how one is loaded in full precision."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from mx_plugin.execution.phases import REWARD, ROLLOUT

from ..errors import StageError

_ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class ModelKind:
    """What a model is for: the class that loads it, and the role and phase whose formats it is packed in."""

    name: str
    auto: Any
    role: str
    phase: str


CAUSAL = ModelKind("causal", AutoModelForCausalLM, "policy", ROLLOUT)
SCORER = ModelKind("scorer", AutoModelForSequenceClassification, "reward", REWARD)
KINDS = {kind.name: kind for kind in (CAUSAL, SCORER)}


def kind_of(config: Any) -> ModelKind:
    """By the architecture that a transformers config names.

    Raises:
        StageError: neither a causal language model nor a sequence classifier.
    """
    names = list(getattr(config, "architectures", None) or [])
    if any(name.endswith("ForSequenceClassification") for name in names):
        return SCORER
    if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names):
        return CAUSAL
    raise StageError(
        f"a model of architecture {', '.join(names) or 'unknown'} is not exported: it must be a causal language model "
        "or a sequence classifier (a reward model)"
    )


def load_in_full(
    folder: Path, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """The model in the dtype in which it was saved, adapters merged, and its tokenizer if the folder has one.

    Raises:
        StageError: it cannot be loaded, or PEFT is needed and not installed.
    """
    options = {"trust_remote_code": trust_remote_code}
    adapter = folder / _ADAPTER
    base = _base_of(adapter) if adapter.is_file() else str(folder)
    try:
        from transformers import AutoConfig

        kind = kind_of(AutoConfig.from_pretrained(base, **options))
        model = kind.auto.from_pretrained(base, dtype="auto", **options)
        if adapter.is_file():
            model = _merged(model, folder)
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, StageError):
            raise
        raise StageError(f"cannot load the model in {folder}: {error}") from error
    return model.eval(), _tokenizer(folder, base, options)


def _base_of(adapter: Path) -> str:
    base = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise StageError(f"{adapter} does not name the base model that the adapter belongs to: merge it by hand")
    return str(base)


def _merged(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    try:
        from peft import PeftModel
    except ImportError as error:
        raise StageError(f"{adapter} is a LoRA adapter, and PEFT is not installed: pip install peft") from error
    return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()


def _tokenizer(folder: Path, base: str, options: dict[str, Any]) -> PreTrainedTokenizerBase | None:
    """The folder's own, else its base model's; None where neither has one."""
    for place in dict.fromkeys((str(folder), base)):
        if Path(place).is_dir() and not any(Path(place).glob("tokenizer*")):
            continue
        try:
            return AutoTokenizer.from_pretrained(place, **options)
        except (OSError, ValueError, KeyError) as error:
            raise StageError(f"cannot load the tokenizer in {place}: {error}") from error
    return None
