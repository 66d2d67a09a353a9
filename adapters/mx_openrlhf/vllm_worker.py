"""OpenRLHF's worker extension of vLLM, which also rounds weights: after loading, and whenever one is synced."""

from __future__ import annotations

from typing import Any

import torch
from openrlhf.trainer.ray.vllm_worker_wrap import WorkerWrap

from mx_plugin.config import MXConfig
from mx_plugin.errors import AdoptionError
from mx_plugin.execution.held_weights import rounded
from mx_plugin.precision.fused import rollout_rounding
from mx_plugin.precision.provider_choice import make_provider
from mx_vllm.held import held_weights, names_in_vllm
from mx_vllm.reload import LayerwiseReload


class MXWorkerExtension(WorkerWrap):  # type: ignore[misc]
    """What vLLM's worker inherits besides its own methods; all names of ours begin with ``mx``."""

    def mx_begin(self, config: dict[str, Any]) -> None:
        """Round what was loaded, and from now on every weight that is synced.

        Raises:
            PolicyError: the policy does not fit the model's layers.
            AdoptionError: vLLM holds weights in a form that cannot be rounded in place.
        """
        model = self.model_runner.get_model()  # its ``model`` may be a wrapper of graphs
        held = self.mx_held = held_weights(model)
        held.follow(rollout_rounding(make_provider(MXConfig(**config)), held.layers))
        self.mx_reload = LayerwiseReload(self.model_runner)
        for name in held.modules:
            held.round(name)
        load = model.load_weights
        self.mx_syncs = 0
        if held.own:
            model.load_weights = self._mx_counted(self._mx_rounded_before(self.mx_reload.loading(load)))
            self._mx_load_again()
        else:
            model.load_weights = self._mx_counted(self._mx_rounded_after(load))

    def _mx_load_again(self) -> None:
        """vLLM has quantised what it loaded by a rule of its own, perhaps not the policy's."""
        self.reload_weights()
        self.mx_reload.end()
        if not self.mx_syncs:
            raise AdoptionError("vLLM's reload_weights did not go through its model's load_weights: not supported")
        self.mx_syncs = 0

    def _mx_counted(self, load: Any) -> Any:
        def load_weights(*args: Any, **kwargs: Any) -> Any:
            loaded = load(*args, **kwargs)
            self.mx_syncs += 1
            return loaded

        return load_weights

    def _mx_rounded_after(self, load: Any) -> Any:
        """OpenRLHF's syncs go through ``load_weights``, which says what it wrote."""
        by_parameter = {f"{name}.weight": name for name in self.mx_held.modules}

        def load_weights(weights: Any, *args: Any, **kwargs: Any) -> Any:
            loaded = load(weights, *args, **kwargs)
            if loaded is None:
                model = type(self.mx_reload.model).__name__
                raise AdoptionError(f"{model}.load_weights does not say what it loaded: not supported")
            for parameter in loaded:
                if parameter in by_parameter:
                    self.mx_held.round(by_parameter[parameter])
            return loaded

        return load_weights

    # ------------------------------------------------------------------ where vLLM quantises by itself

    def _mx_rounded_before(self, load: Any) -> Any:
        """vLLM's codes of a weight on the grid lose nothing more, by whatever rule it chooses their scales."""
        model, held = self.mx_reload.model, self.mx_held
        by_layer = {name: held.rounding[layer.name] for layer in held.layers for name in layer.siblings}

        def on_grid(name: str, weight: torch.Tensor) -> torch.Tensor:
            named = names_in_vllm(model, [name.removesuffix(".weight")] if name.endswith(".weight") else [])
            found = [by_layer[layer] for layer in named if layer in by_layer]
            return rounded(weight, found[0]) if found else weight

        def load_weights(weights: Any, *args: Any, **kwargs: Any) -> Any:
            return load(((name, on_grid(name, weight)) for name, weight in weights), *args, **kwargs)

        return load_weights

    def update_weight(self, name: str, dtype: Any, shape: Any, empty_cache: bool = False) -> None:
        """As OpenRLHF's, which says by ``empty_cache`` that a weight is the last of its sync."""
        super().update_weight(name, dtype, shape, empty_cache)
        if empty_cache:
            self.mx_reload.end()

    def update_weight_cuda_ipc(
        self, name: str, dtype: Any, shape: Any, ipc_handles: Any = None, empty_cache: bool = False
    ) -> None:
        """As :meth:`update_weight`, through memory of the GPU that both processes see."""
        super().update_weight_cuda_ipc(name, dtype, shape, ipc_handles, empty_cache)
        if empty_cache:
            self.mx_reload.end()

    def mx_report(self) -> dict[str, Any]:
        """Formats by module, how many weights were synced so far, and the modules whose weight is off its grid."""
        if self.mx_reload.is_open:
            raise AdoptionError("OpenRLHF did not say which weight was the last of its sync: vLLM still waits for more")
        wrong = self.mx_held.off_grid() + self.mx_reload.differing
        return {**self.mx_held.describe(), "synced": self.mx_syncs, "off_grid": wrong}
