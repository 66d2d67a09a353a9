"""Which layers of a model vLLM fuses into one module, known before there is an engine."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from torch import nn

log = logging.getLogger(__name__)

_LLAMA_LIKE: dict[str, list[str]] = {
    "qkv_proj": ["q_proj", "k_proj", "v_proj"],
    "gate_up_proj": ["gate_proj", "up_proj"],
}


def architectures_of(policy: nn.Module) -> Sequence[str]:
    """Names of the class of a policy, as its configuration gives them."""
    return getattr(getattr(policy, "config", None), "architectures", None) or [type(policy).__name__]


def class_in_vllm(architectures: Sequence[str]) -> type[nn.Module] | None:
    """This process's vLLM's class of such a model; None where it has none or cannot load it."""
    for architecture in architectures:
        try:
            from vllm.model_executor.models import ModelRegistry

            known = ModelRegistry.models.get(architecture)
            if known is not None:
                found: type[nn.Module] = known.load_model_cls()
                return found
        except Exception as error:  # its module may need a library that only the server has
            log.info("vLLM's %s cannot be loaded here (%s: %s)", architecture, type(error).__name__, error)
    return None


def fused_by_architecture(architectures: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """As this process's vLLM fuses the layers of such a model.

    Of one that it does not know it is taken for granted that q, k, v and gate, up are fused: siblings that are not get
    at most a wider format than was asked for, and config.json names them.
    """
    found = class_in_vllm(architectures)
    if found is not None:
        return getattr(found, "packed_modules_mapping", None) or {}
    log.info("which layers vLLM fuses is not known here: taken for %s", ", ".join(_LLAMA_LIKE))
    return _LLAMA_LIKE


def has_tied_head(model: nn.Module) -> bool:
    """Whether the output head's weight is the embedding's."""
    ends = [getattr(model, name, None) for name in ("get_output_embeddings", "get_input_embeddings")]
    modules = [end() if callable(end) else None for end in ends]
    weights = [getattr(module, "weight", None) for module in modules]
    return weights[0] is not None and weights[0] is weights[1]
