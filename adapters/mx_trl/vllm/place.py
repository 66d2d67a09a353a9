"""Where a trainer's vLLM is: what holds its weights, and which methods sync them and have it generate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from torch import nn

from mx_plugin.errors import AdoptionError
from mx_vllm.fused import architectures_of, fused_by_architecture


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


def fused_modules(place: Place, policy: nn.Module) -> Mapping[str, Sequence[str]]:
    """Which layers vLLM fuses: last name of its module -> last names of the layers that it holds.

    Colocated, vLLM's model says it; a server's is known by its architecture.
    """
    if place.llm is not None:
        return getattr(place.model, "packed_modules_mapping", None) or {}
    return fused_by_architecture(architectures_of(policy))


def engine_of(place: Place) -> tuple[str, str | None]:
    """(dtype in which vLLM multiplies, its own quantisation); "" and None where they are not known here."""
    if place.llm is not None:
        # A colocated vLLM that quantises shows it in its modules.
        return str(place.llm.llm_engine.model_config.dtype).removeprefix("torch."), None
    if place.client is None or not hasattr(place.client, "get_server_info"):
        return "", None
    told = place.client.get_server_info()["model_config"]
    return str(told.get("dtype") or "").removeprefix("torch."), told.get("quantization")
