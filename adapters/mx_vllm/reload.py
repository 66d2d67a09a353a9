"""Weights sent to a vLLM that quantises by itself: it must be told where a sync begins and where it ends.

Its modules hold no weight in the model's dtype to load into: until all parts of a module have come they are kept aside,
then quantised, and copied to where compiled graphs expect them (vLLM's layerwise reload).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

Named = tuple[str, torch.Tensor]


class LayerwiseReload:
    """Of one vLLM model in this process.

    Args:
        runner: vLLM's model runner.
    """

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self.is_open = False

    def begin(self) -> None:
        """Weights follow; nothing may be generated until :meth:`end`."""
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        if not self.is_open:
            initialize_layerwise_reload(self._runner.model)
            self.is_open = True

    def end(self) -> None:
        """All weights have come. What did not come stays as it was."""
        if not self.is_open:
            return
        from vllm.config import set_current_vllm_config
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        with set_current_vllm_config(self._runner.vllm_config):
            finalize_layerwise_reload(self._runner.model, self._runner.model_config)
        self.is_open = False

    def loading(self, load: Callable[..., Any]) -> Callable[..., Any]:
        """The model's ``load_weights``, of which each call belongs to a sync."""

        def load_weights(weights: Iterable[Named], *args: Any, **kwargs: Any) -> Any:
            from vllm.config import set_current_vllm_config

            self.begin()
            with set_current_vllm_config(self._runner.vllm_config):
                return load(_kept(weights), *args, **kwargs)

        return load_weights


def _kept(weights: Iterable[Named]) -> Iterator[Named]:
    """Copies: a weight is kept until all of its module have come, and its sender may need the memory before."""
    for name, tensor in weights:
        yield name, tensor.detach().clone()
