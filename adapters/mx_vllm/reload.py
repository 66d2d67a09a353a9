"""Weights sent to a vLLM that quantises by itself: it must be told where a sync begins and where it ends.

Its modules hold no weight in the model's dtype to load into: until all parts of a module have come they are kept aside,
then quantised, and copied to where compiled graphs expect them (vLLM's layerwise reload).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from .held import BLOCK, columns, held_weights, names_in_vllm

Named = tuple[str, torch.Tensor]


class LayerwiseReload:
    """Of one vLLM model in this process.

    vLLM has quantised whatever it was given, so that its weights lie on a grid in any case: a block of each weight that
    is sent is kept, another one each time, and compared with what the module multiplies by at the end.

    Args:
        runner: vLLM's model runner.
    """

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self.model = runner.get_model()
        """Not the runner's ``model``, which may be a wrapper of its graphs."""
        held = held_weights(self.model)
        self._modules = {name: held.modules[name] for name in held.own}
        self._siblings = {layer.name: layer.siblings for layer in held.layers if layer.name in held.own}
        self.executed = {sibling for siblings in self._siblings.values() for sibling in siblings}
        """Layers, by vLLM's names of them, that it executes in an MX format of its own."""
        self._sent: dict[str, torch.Tensor] = {}
        self._block = 0
        self.is_open = False
        self.differing: list[str] = []
        """After a sync: modules whose weight is not what was sent, or of which a part was not sent."""

    def begin(self) -> None:
        """Weights follow; nothing may be generated until :meth:`end`."""
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        if not self.is_open:
            initialize_layerwise_reload(self.model)
            self.is_open = True
            self._sent = {}
            self._block += 1

    def end(self) -> None:
        """All weights have come. Modules of which nothing came stay as they were."""
        if not self.is_open:
            return
        self._finalize()
        self.differing = [name for name in self._modules if self._differs(name)]

    def abandon(self) -> None:
        """The sync was broken off: modules of which some parts are still missing stay as they were."""
        if not self.is_open:
            return
        from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

        for module in self.model.modules():
            info = get_layerwise_info(module)
            if info.can_load():
                info.loaded_weights.clear()
                info.load_numel = 0
        self._finalize()

    def _finalize(self) -> None:
        from vllm.config import set_current_vllm_config
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        with set_current_vllm_config(self._runner.vllm_config):
            finalize_layerwise_reload(self.model, self._runner.model_config)
        self.is_open = False

    def loading(self, load: Callable[..., Any]) -> Callable[..., Any]:
        """The model's ``load_weights``, of which each call belongs to a sync."""

        def load_weights(weights: Iterable[Named], *args: Any, **kwargs: Any) -> Any:
            from vllm.config import set_current_vllm_config

            self.begin()
            try:
                with set_current_vllm_config(self._runner.vllm_config):
                    return load(self._kept(weights), *args, **kwargs)
            except BaseException:
                self.abandon()
                raise

        return load_weights

    def _kept(self, weights: Iterable[Named]) -> Iterator[Named]:
        """Copies: a weight is kept until all of its module have come, and its sender may need the memory before."""
        for name, tensor in weights:
            copy = tensor.detach().clone()
            layers = names_in_vllm(self.model, [name.removesuffix(".weight")] if name.endswith(".weight") else [])
            for layer in self.executed.intersection(layers):
                self._sent[layer] = copy[:, self._columns(copy.shape[1])].clone()
            yield name, copy

    def _columns(self, inputs: int) -> slice:
        start = self._block % max(1, inputs // BLOCK) * BLOCK
        return slice(start, start + BLOCK)

    def _differs(self, name: str) -> bool:
        module = self._modules[name]
        parts = [self._sent[part] for part in self._siblings[name] if part in self._sent]
        if not parts:
            return False
        if len(parts) < len(self._siblings[name]):
            return True
        sent = torch.cat(parts)
        if getattr(module, "tp_size", 1) > 1 or sent.shape[0] != module.output_size_per_partition:
            return False  # shards of it are elsewhere
        start = self._columns(module.input_size_per_partition).start
        return not torch.equal(columns(module, start // BLOCK), sent.to(module.orig_dtype))
