"""A subclass of OpenRLHF's vLLM actor whose weights are rounded from the first rollout on."""

from __future__ import annotations

from typing import Any

import torch

from mx_plugin.errors import AdoptionError
from mx_vllm.choice import own_choice

from .gathering import own_pairs
from .run_spec import RunSpec

EXTENSION = "mx_openrlhf.vllm_worker.MXWorkerExtension"


def _without_weights(path: str) -> torch.nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(path, trust_remote_code=True)
    # OpenRLHF's own distinction between models of text and those with images.
    kind = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    with torch.device("meta"):
        model: torch.nn.Module = kind.from_config(config, trust_remote_code=True)
    return model


def mx_rollout_actor(original: type[Any], spec: RunSpec) -> type[Any]:
    """A subclass that gives vLLM our worker extension, and has it round the weights that it loaded."""

    class MXRolloutActor(original):  # type: ignore[misc]
        async def __init__(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[misc] # Ray awaits it
            theirs = kwargs.get("worker_extension_cls")
            if theirs != "openrlhf.trainer.ray.vllm_worker_wrap.WorkerWrap":
                raise AdoptionError(f"OpenRLHF gives vLLM the worker extension {theirs!r}, which MX does not extend")
            kwargs["worker_extension_cls"] = EXTENSION
            choice = own_choice(lambda: _without_weights(kwargs["model"]), spec.config)
            if choice is not None:
                kwargs.update(choice.engine_arguments())
            await super().__init__(*args, **kwargs)
            # Here, because there is no sync before the first rollout, and vLLM may be put to sleep right after.
            await self.llm.collective_rpc("mx_begin", args=(spec.config.to_dict(),))
            self.mx_loaded = await self.mx_report()
            if choice is not None:
                choice.warn_of_others(set(own_pairs(self.mx_loaded[0])))

        async def mx_report_of_loading(self) -> list[dict[str, Any]]:
            """The reports of the weights that were loaded; the engine may be asleep by the time they are asked for."""
            return list(self.mx_loaded)

        async def mx_report(self) -> list[dict[str, Any]]:
            """One report per vLLM worker of this engine."""
            return list(await self.llm.collective_rpc("mx_report"))

    MXRolloutActor.__name__ = original.__name__
    MXRolloutActor.__qualname__ = original.__qualname__
    return MXRolloutActor
