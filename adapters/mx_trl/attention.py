"""Attention products and KV cache: work that no linear layer sees, counted from shapes.

MACs per call = 2 x batch x query heads x query length x key length x head dim (scores and values,
dense: kernels that skip the masked half execute fewer); backward is twice the forward. KV bytes are
those read (whole cache) and written (new positions).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mx_plugin.interfaces import Work
from torch import nn

ATTENTION = "attention"
"""Format column of these rows: attention products stay in the model's own dtype."""


@contextmanager
def counting_attention(models: Mapping[str, nn.Module], add: Callable[[Work], None]) -> Iterator[None]:
    """Report the attention work of each role's model through ``add`` while the block runs."""
    removables = []
    for role, model in models.items():
        for module in model.modules():
            if type(module).__name__.endswith("Attention") and hasattr(module, "config"):
                removables.append(module.register_forward_hook(_hook(role, add), with_kwargs=True))
    try:
        yield
    finally:
        for removable in removables:
            removable.remove()


def _hook(role: str, add: Callable[[Work], None]) -> Callable[..., None]:
    def count(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        hidden = args[0] if args else kwargs.get("hidden_states")
        if not isinstance(hidden, torch.Tensor) or hidden.dim() != 3:
            return
        batch, queries, _ = hidden.shape
        config = module.config
        heads = config.num_attention_heads
        key_heads = getattr(config, "num_key_value_heads", None) or heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        cache = kwargs.get("past_key_values")
        keys = cache.get_seq_length(module.layer_idx) if cache is not None else queries
        macs = 2 * batch * heads * queries * keys * head_dim
        if torch.is_grad_enabled() and hidden.requires_grad:
            macs *= 3
        kv_bytes = 0
        if cache is not None:
            kv_bytes = 2 * batch * key_heads * head_dim * (keys + queries) * hidden.element_size()
        dtype = str(hidden.dtype).removeprefix("torch.")
        add(Work(role, ATTENTION, dtype, macs=macs, kv_bytes=kv_bytes))

    return count
