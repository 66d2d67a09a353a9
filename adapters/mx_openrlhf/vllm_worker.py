"""OpenRLHF's worker extension of vLLM, which also rounds weights: after loading, and whenever one is synced.

Rounded weights stay in the model's dtype and are multiplied by vLLM's own kernels (weights only: activations and the
KV cache are not quantised). MX values are exact in bfloat16 but at the extreme scales, so nothing else is lost.
"""

from __future__ import annotations

from typing import Any

import torch
from openrlhf.trainer.ray.vllm_worker_wrap import WorkerWrap

from mx_plugin.config import MXConfig
from mx_plugin.formats.cast import fake_quantize_
from mx_plugin.formats.spec import get_format
from mx_plugin.precision.provider_choice import make_provider

from .rollout_formats import FusedLayer, Rounding, rollout_rounding, sibling_names


class MXWorkerExtension(WorkerWrap):  # type: ignore[misc]
    """What vLLM's worker inherits besides its own methods; all names of ours begin with ``mx``."""

    def mx_begin(self, config: dict[str, Any]) -> None:
        """Round what was loaded, and from now on every weight that is synced.

        Raises:
            PolicyError: the policy does not fit the model's layers.
            RuntimeError: vLLM holds weights in a form that cannot be rounded in place.
        """
        model = self.model_runner.model
        self.mx_modules = dict(linear_modules(model))
        layers = [fused_layer(name, module, model) for name, module in self.mx_modules.items()]
        layers += tied_head(model, layers)
        self.mx_layers = layers
        self.mx_rounding = rollout_rounding(make_provider(MXConfig(**config)), layers)
        self.mx_syncs = 0
        for name in self.mx_modules:
            self._mx_check(name)
            self._mx_round(name)
        self._mx_round_what_is_loaded(model)

    def _mx_round_what_is_loaded(self, model: Any) -> None:
        """OpenRLHF's syncs go through ``load_weights``, which says what it wrote."""
        load = model.load_weights
        by_parameter = {f"{name}.weight": name for name in self.mx_modules}

        def load_weights(weights: Any, *args: Any, **kwargs: Any) -> Any:
            loaded = load(weights, *args, **kwargs)
            if loaded is None:
                raise RuntimeError(f"{type(model).__name__}.load_weights does not say what it loaded: not supported")
            for parameter in loaded:
                if parameter in by_parameter:
                    self._mx_round(by_parameter[parameter])
            self.mx_syncs += 1
            return loaded

        model.load_weights = load_weights

    def _mx_round(self, name: str) -> None:
        rounding: Rounding = self.mx_rounding[name]
        weight = self.mx_modules[name].weight
        if rounding.quantised:
            with torch.no_grad():
                weight.copy_(rounded(weight, rounding))

    def _mx_check(self, name: str) -> None:
        """Raises RuntimeError where rounding the weight in place would not reach what vLLM multiplies."""
        module = self.mx_modules[name]
        if not self.mx_rounding[name].quantised:
            return
        method = type(getattr(module, "quant_method", None)).__name__
        if method not in ("UnquantizedLinearMethod", "UnquantizedEmbeddingMethod"):
            raise RuntimeError(f"vLLM executes {name} by {method}: weights that it holds otherwise cannot be rounded")
        if module.weight.dim() != 2 or module.weight.numel() == 0:
            raise RuntimeError(
                f"vLLM packed the weight of {name} when it loaded it (shape {tuple(module.weight.shape)}): it can "
                "neither be synced nor rounded in place"
            )
        ranks = getattr(module, "tp_size", 1)
        block = get_format(self.mx_rounding[name].format).block_size
        if ranks > 1 and type(module).__name__.startswith("Row") and module.weight.shape[1] % block:
            raise RuntimeError(
                f"tensor parallelism cuts {name} into {ranks} parts of {module.weight.shape[1]} inputs, not a multiple "
                f"of the block size {block}: use a smaller --vllm.tensor_parallel_size"
            )

    def mx_report(self) -> dict[str, Any]:
        """Formats by module, how many weights were synced so far, and the modules whose weight is off its grid."""
        off_grid = [
            name
            for name, rounding in self.mx_rounding.items()
            if rounding.quantised and not torch.equal(self.mx_modules[name].weight, self._mx_on_grid(name))
        ]
        return {
            "formats": {name: rounding.format for name, rounding in self.mx_rounding.items()},
            "projected": {
                name: rounding.projected for name, rounding in self.mx_rounding.items() if rounding.projected
            },
            "siblings": {layer.name: list(layer.siblings) for layer in self.mx_layers},
            "synced": self.mx_syncs,
            "off_grid": off_grid,
        }

    def _mx_on_grid(self, name: str) -> torch.Tensor:
        return rounded(self.mx_modules[name].weight, self.mx_rounding[name])


def rounded(weight: torch.Tensor, rounding: Rounding) -> torch.Tensor:
    """``weight`` (out, in) rounded to nearest along ``in``, in its own dtype. Rounding twice changes nothing more."""
    return fake_quantize_(weight.detach(), rounding.format, -1, scale_rule=rounding.scale_rule)


def linear_modules(model: Any) -> list[tuple[str, Any]]:
    """vLLM's linear modules and its output head, by name."""
    from vllm.model_executor.layers.linear import LinearBase
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    return [(name, module) for name, module in model.named_modules() if isinstance(module, LinearBase | ParallelLMHead)]


def tied_head(model: Any, layers: list[FusedLayer]) -> list[FusedLayer]:
    """A head that vLLM did not make because it uses the embedding: the policy may still name it."""
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    if any(layer.is_lm_head for layer in layers):
        return []
    embeddings = [module for module in model.modules() if isinstance(module, VocabParallelEmbedding)]
    return [
        FusedLayer("lm_head", ("lm_head",), module.weight.shape[1], module.weight.shape[0], True, True)
        for module in embeddings[:1]
    ]


def fused_layer(name: str, module: Any, model: Any) -> FusedLayer:
    """What a module of vLLM is in the plain model. Its shape is that of this worker's shard."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

    packed = getattr(model, "packed_modules_mapping", None) or {}
    out_features, in_features = module.weight.shape[-2:] if module.weight.dim() >= 2 else (0, 0)
    head = isinstance(module, ParallelLMHead)
    tied = head and any(
        other.weight is module.weight
        for other in model.modules()
        if isinstance(other, VocabParallelEmbedding) and other is not module
    )
    return FusedLayer(name, sibling_names(name, packed), in_features, out_features, head, tied)
