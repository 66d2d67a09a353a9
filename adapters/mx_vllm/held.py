"""vLLM's model as :class:`HeldWeights` sees it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from mx_plugin.execution.held_weights import HeldWeights, ModuleKinds
from mx_plugin.formats.spec import get_format

from .kernels import executed_by

BLOCK = get_format("MXFP8").block_size
PROBED_BLOCKS = 32
"""Blocks of inputs that are read of a module in one look: 1,024 products a row of its weight."""


def held_weights(model: Any) -> HeldWeights:
    """The linear modules of vLLM's model in this process."""
    from vllm.model_executor.layers.linear import LinearBase
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

    return HeldWeights(model, ModuleKinds(LinearBase, ParallelLMHead, VocabParallelEmbedding, executed_by, products))


def names_in_vllm(model: Any, names: Iterable[str]) -> dict[str, str]:
    """vLLM's name of a layer -> its name in the plain model; they differ in some models, in those with images say."""
    mapper = getattr(model, "hf_to_vllm_mapper", None)
    if mapper is None:
        return {name: name for name in names}
    renames = mapper.get_rename_mapper() if hasattr(mapper, "get_rename_mapper") else mapper
    renamed: dict[str, str] = renames.apply_dict({f"{name}.weight": name for name in names})
    return {name.removesuffix(".weight"): layer for name, layer in renamed.items()}


def products(module: Any) -> Iterator[torch.Tensor]:
    """Columns of the weight that a module multiplies by, (outputs, a multiple of 32), whatever form its kernel keeps.

    They are its products with one-hot inputs, which MX formats hold exactly, and so are their sums with zeros. Of wide
    modules some blocks of inputs are read, spread over all of them.
    """
    blocks = module.input_size_per_partition // BLOCK
    for block in range(0, blocks, max(1, -(-blocks // PROBED_BLOCKS))):
        yield columns(module, block)


def columns(module: Any, block: int) -> torch.Tensor:
    """One block of the columns of the weight that a module multiplies by, (outputs, 32)."""
    inputs, device = module.input_size_per_partition, next(module.parameters()).device
    one_hot = torch.zeros(BLOCK, inputs, dtype=module.orig_dtype, device=device)
    one_hot[:, block * BLOCK : (block + 1) * BLOCK].fill_diagonal_(1.0)
    with torch.no_grad():
        found: torch.Tensor = module.quant_method.apply(module, one_hot).T
    return found
