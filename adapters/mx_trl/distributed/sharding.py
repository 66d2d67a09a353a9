"""Which ways of sharding a model leave a weight that MX can cast, and a clear word where none is left."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from torch import nn

from mx_plugin.errors import AdoptionError


def refuse_unreachable_weights(trainer: Any, models: Mapping[str, nn.Module]) -> None:
    """Before anything is adopted.

    Raises:
        AdoptionError: ZeRO-3, FSDP1, or a model that is parallel in tensors; with what works instead.
    """
    accelerator = getattr(trainer, "accelerator", None)
    state = getattr(accelerator, "state", None)
    deepspeed = getattr(state, "deepspeed_plugin", None)
    partitioned = [role for role, model in models.items() if any(hasattr(p, "ds_id") for p in model.parameters())]
    stage = 0 if deepspeed is None else int(deepspeed.zero_stage or 0)
    if stage >= 3 or partitioned:
        whose = f" of {', '.join(partitioned)}" if partitioned else ""
        raise AdoptionError(
            f"DeepSpeed ZeRO-3 partitions the weights{whose}: outside its own forward no rank has one whole, so MX "
            "could neither pack nor check it. Use ZeRO-2 (zero_stage: 2) or FSDP2 (fsdp_version: 2), or leave "
            "MXCallback out"
        )
    fsdp = getattr(state, "fsdp_plugin", None)
    flat = getattr(sys.modules.get("torch.distributed.fsdp"), "FullyShardedDataParallel", None)
    holds_flat = flat is not None and any(isinstance(m, flat) for model in models.values() for m in model.modules())
    if holds_flat or (fsdp is not None and int(getattr(fsdp, "fsdp_version", 1)) < 2):
        raise AdoptionError(
            "FSDP1 keeps weights as parts of flat parameters, in which MX cannot tell one from another: set "
            "fsdp_version: 2 in the FSDP configuration (fsdp_config of the trainer's arguments)"
        )
    for role, model in models.items():
        ways = getattr(model, "tp_size", None) or 1
        if ways > 1:
            raise AdoptionError(
                f"the {role} model is split {ways} ways by tensor parallelism, so no rank has a whole weight to cast: "
                "load it without tp_plan, and shard it by FSDP2"
            )
