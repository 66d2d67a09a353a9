"""Where a trainer's vLLM is: what holds its weights, and which methods sync them and have it generate."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from torch import nn

from mx_plugin.errors import AdoptionError

log = logging.getLogger(__name__)

_LLAMA_LIKE: dict[str, list[str]] = {
    "qkv_proj": ["q_proj", "k_proj", "v_proj"],
    "gate_up_proj": ["gate_proj", "up_proj"],
}


@dataclass(frozen=True)
class Place:
    """vLLM of one trainer.

    ``owner`` has the methods ``sync`` and ``generate``, by name. Colocated, ``llm`` is vLLM's engine in this process;
    with a server, ``client`` is TRL's, and None on all ranks but the main one.
    """

    owner: Any
    sync: str
    generate: str
    mode: str
    llm: Any = None
    client: Any = None

    @property
    def model(self) -> Any:
        """vLLM's model in this process, by the path on which TRL itself loads weights; None with a server."""
        return None if self.llm is None else self.llm.llm_engine.model_executor.driver_worker.model_runner.model


def find_vllm(trainer: Any) -> Place | None:
    """vLLM of a trainer that generates with it, else None.

    Raises:
        AdoptionError: it does, but not in a way that is known here: its rollouts would run unquantised in silence.
    """
    if getattr(trainer, "rollout_worker", None) is not None or getattr(trainer, "weight_transfer", None) is not None:
        raise _unknown(trainer, "generates asynchronously, with weights that it sends to vLLM by itself")
    if not (getattr(trainer, "use_vllm", False) or getattr(trainer.args, "use_vllm", False)):
        return None
    # OnlineDPO talks to vLLM itself; the other trainers have an object for it.
    own = getattr(trainer, "vllm_generation", None)
    owner = trainer if own is None else own
    sync, generate = ("_move_model_to_vllm", "_generate_vllm") if own is None else ("sync_weights", "generate")
    mode = getattr(owner, "vllm_mode" if own is None else "mode", None)
    llm, client = getattr(owner, "llm", None), getattr(owner, "vllm_client", None)
    if not callable(getattr(owner, sync, None)) or not callable(getattr(owner, generate, None)):
        raise _unknown(trainer, f"has no {sync} and {generate} through which it syncs weights and generates")
    if mode not in ("colocate", "server") or (mode == "colocate" and llm is None):
        raise _unknown(trainer, f"runs vLLM in mode {mode!r}, in which its weights are not found")
    return Place(owner, sync, generate, mode, llm if mode == "colocate" else None, client)


def _unknown(trainer: Any, why: str) -> AdoptionError:
    return AdoptionError(
        f"{type(trainer).__name__} of TRL {version('trl')} {why}: its rollouts would not be in the policy's formats. "
        "GRPO, RLOO and OnlineDPO are supported with vLLM, and every trainer without it"
    )


def fused_modules(place: Place, architectures: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """Which layers vLLM fuses: last name of its module -> last names of the layers that it holds.

    Colocated, vLLM's model says it. A server's is known by its architecture, which this process's vLLM knows too; of
    one that it does not know it is taken for granted that q, k, v and gate, up are fused: siblings that are not get at
    most a wider format than was asked for, and config.json names them.
    """
    if place.llm is not None:
        return getattr(place.model, "packed_modules_mapping", None) or {}
    for architecture in architectures:
        try:
            from vllm.model_executor.models import ModelRegistry

            known = ModelRegistry.models.get(architecture)
            if known is not None:
                return getattr(known.load_model_cls(), "packed_modules_mapping", None) or {}
        except Exception as error:  # its module may need a library that only the server has
            log.info("vLLM's %s cannot be loaded here (%s: %s)", architecture, type(error).__name__, error)
    log.info("which layers the vLLM server fuses is not known here: taken for %s", ", ".join(_LLAMA_LIKE))
    return _LLAMA_LIKE


def engine_of(place: Place) -> tuple[str, str | None]:
    """(dtype in which vLLM multiplies, its own quantisation); "" and None where they are not known here."""
    if place.llm is not None:
        # A colocated vLLM that quantises shows it in its modules.
        return str(place.llm.llm_engine.model_config.dtype).removeprefix("torch."), None
    if place.client is None or not hasattr(place.client, "get_server_info"):
        return "", None
    told = place.client.get_server_info()["model_config"]
    return str(told.get("dtype") or "").removeprefix("torch."), told.get("quantization")


def has_tied_head(model: nn.Module) -> bool:
    """Whether the output head's weight is the embedding's."""
    ends = [getattr(model, name, None) for name in ("get_output_embeddings", "get_input_embeddings")]
    modules = [end() if callable(end) else None for end in ends]
    weights = [getattr(module, "weight", None) for module in modules]
    return weights[0] is not None and weights[0] is weights[1]
