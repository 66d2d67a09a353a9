"""OpenRLHF's worker extension of vLLM, which also rounds weights: after loading, and whenever one is synced."""

from __future__ import annotations

from typing import Any

from openrlhf.trainer.ray.vllm_worker_wrap import WorkerWrap

from mx_plugin.config import MXConfig
from mx_plugin.errors import AdoptionError
from mx_plugin.execution.held_weights import HeldWeights, ModuleKinds
from mx_plugin.precision.fused import rollout_rounding
from mx_plugin.precision.provider_choice import make_provider


class MXWorkerExtension(WorkerWrap):  # type: ignore[misc]
    """What vLLM's worker inherits besides its own methods; all names of ours begin with ``mx``."""

    def mx_begin(self, config: dict[str, Any]) -> None:
        """Round what was loaded, and from now on every weight that is synced.

        Raises:
            PolicyError: the policy does not fit the model's layers.
            AdoptionError: vLLM holds weights in a form that cannot be rounded in place.
        """
        from vllm.model_executor.layers.linear import LinearBase
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

        model = self.model_runner.model
        held = self.mx_held = HeldWeights(model, ModuleKinds(LinearBase, ParallelLMHead, VocabParallelEmbedding))
        held.follow(rollout_rounding(make_provider(MXConfig(**config)), held.layers))
        self.mx_syncs = 0
        for name in held.modules:
            held.round(name)
        self._mx_round_what_is_loaded(model)

    def _mx_round_what_is_loaded(self, model: Any) -> None:
        """OpenRLHF's syncs go through ``load_weights``, which says what it wrote."""
        load = model.load_weights
        by_parameter = {f"{name}.weight": name for name in self.mx_held.modules}

        def load_weights(weights: Any, *args: Any, **kwargs: Any) -> Any:
            loaded = load(weights, *args, **kwargs)
            if loaded is None:
                raise AdoptionError(f"{type(model).__name__}.load_weights does not say what it loaded: not supported")
            for parameter in loaded:
                if parameter in by_parameter:
                    self.mx_held.round(by_parameter[parameter])
            self.mx_syncs += 1
            return loaded

        model.load_weights = load_weights

    def mx_report(self) -> dict[str, Any]:
        """Formats by module, how many weights were synced so far, and the modules whose weight is off its grid."""
        return {**self.mx_held.describe(), "synced": self.mx_syncs, "off_grid": self.mx_held.off_grid()}
