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
from torch import nn

from mx_plugin.interfaces import Work

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
        keys, positions = _keys(module, queries, kwargs)
        macs = 2 * batch * heads * queries * keys * head_dim
        kv_bytes = 2 * batch * key_heads * head_dim * positions * hidden.element_size()
        dtype = str(hidden.dtype).removeprefix("torch.")
        add(Work(role, ATTENTION, dtype, macs=macs, kv_bytes=kv_bytes))
        if hidden.requires_grad:
            _at_backward(output, add, Work(role, ATTENTION, dtype, macs=2 * macs))

    return count


@torch.compiler.disable
def _at_backward(output: Any, add: Callable[[Work], None], work: Work) -> None:
    """Add ``work`` when backward reaches the output: once, though a checkpoint runs the forward twice."""
    mixed = output[0] if isinstance(output, tuple) else output
    if isinstance(mixed, torch.Tensor) and mixed.requires_grad:
        mixed.register_hook(lambda _: add(work))


def _keys(module: Any, queries: int, kwargs: Mapping[str, Any]) -> tuple[int, int]:
    """Keys that each query meets, and positions of the cache that are read or written, per batch row.

    Continuous batching packs all requests into one row over a paged cache: with a mask (CPU) they meet
    all packed keys; without one each meets at most those of the longest request, which is counted. No
    value of a tensor is read: that would stop a CUDA graph from being captured.
    """
    cache = kwargs.get("past_key_values")
    if cache is not None:
        keys = int(cache.get_seq_length(module.layer_idx))
        return keys, keys + queries
    longest = kwargs.get("max_length_k")
    if longest is None:
        return queries, 0
    mask = kwargs.get("attention_mask")
    if isinstance(mask, torch.Tensor):
        return mask.shape[-1], mask.shape[-1] + queries
    keys = int(max(longest.values()) if isinstance(longest, Mapping) else longest)
    return keys, keys * (len(kwargs["cu_seq_lens_q"]) - 1) + queries
