"""Which modules are adopted, under which name, and which are left out and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from ..errors import AdoptionError
from .layer import AdoptedLayer, adopted, has_own_forward
from .layer_types import LayerType
from .packed_module import held_packed
from .sharding import plain_class

_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer"}
_HEADS = {"score", "v_head", "value_head", "classifier", "summary", "reward_head"}
_ROUTERS = {"gate", "router"}
_STEP_SIZES = "dt_proj"
_LORA = {"lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B"}


@dataclass(frozen=True)
class LeftOut:
    """A module with weights or products that keep the model's own dtype, and the reason."""

    name: str
    role: str
    reason: str


def canonical_name(path: str) -> str:
    """A module's name as in the plain model: DDP, FSDP, compile and PEFT prefixes removed."""
    parts = [part for part in path.split(".") if part not in _WRAPPERS]
    if parts[:2] == ["base_model", "model"]:
        parts = parts[2:]
    return ".".join(parts)


def select(
    roots: Mapping[str, nn.Module], layer_types: Iterable[LayerType]
) -> tuple[list[AdoptedLayer], list[LeftOut]]:
    """Find the layers to adopt in each role's model, and what is left out.

    A module shared between roles belongs to the first that holds it.

    Raises:
        AdoptionError: a module is already adopted by another engine, or nothing could be adopted.
    """
    types = {layer_type.cls: layer_type for layer_type in layer_types}
    layers: list[AdoptedLayer] = []
    left_out: list[LeftOut] = []
    owner: dict[int, str] = {}
    for role, root in roots.items():
        head = _output_head(root)
        names: set[str] = set()
        for path, module in root.named_modules():
            name = canonical_name(path)
            if adopted(module) is not None:
                raise AdoptionError(
                    f"{role} layer {name!r} is already adopted: detach the other MXCallback or controller first"
                )
            reason = _why_left_out(path, module, root, types)
            if reason is None:
                continue
            if id(module) in owner:
                reason = f"shared with role {owner[id(module)]}"
            if reason:
                left_out.append(LeftOut(name, role, reason))
                continue
            owner[id(module)] = role
            if name in names:
                name = path
            names.add(name)
            layers.append(AdoptedLayer(name, role, module, types[plain_class(type(module))], module is head))
    if not layers:
        known = ", ".join(sorted(cls.__name__ for cls in types))
        raise AdoptionError(
            f"no layer to adopt in {', '.join(roots) or 'no model'}: none is of a registered type ({known}); "
            "register its class by mx_register_layer_types"
        )
    return layers, left_out


def _why_left_out(path: str, module: nn.Module, root: nn.Module, types: Mapping[type, LayerType]) -> str | None:
    """ "" to adopt, a reason to leave out, None for a module that only holds others."""
    parts = path.split(".")
    held = held_packed(module)
    if held is not None:
        return f"loaded packed: {held.packed.format}/{held.activations} in every phase"
    if plain_class(type(module)) not in types:
        return _why_no_layer(type(module).__name__, module, parts)
    if _LORA.intersection(parts):
        return "LoRA adapter"
    if parts[-1] in _HEADS or (len(parts) == 1 and not parts[0]):
        return "score or value head"
    if has_own_forward(module):
        return "its forward was replaced on the instance"
    holder = root.get_submodule(".".join(parts[:-1]))
    if parts[-1] in _ROUTERS and hasattr(holder, "experts"):
        return "MoE router"
    if parts[-1] == _STEP_SIZES and hasattr(holder, "A_log"):
        return "step sizes of a state-space layer: their weight is read past the layer's forward"
    return ""


def _why_no_layer(kind: str, module: nn.Module, parts: list[str]) -> str | None:
    """Of a module that is no layer of ours. Experts fused into one parameter, say, must not pass in silence."""
    if isinstance(module, nn.Linear):
        return f"{kind}, a subclass of Linear, is not a registered layer type"
    if isinstance(module, nn.Embedding):
        return "embedding"
    if kind.endswith("Attention"):
        return "attention products and KV cache"
    if not any(parameter is not None for parameter in module._parameters.values()):
        return None
    if "Norm" in kind:
        return "norm"
    if _LORA.intersection(parts):
        return "LoRA adapter"
    return f"{kind} holds weights of its own and is not a registered layer type"


def _output_head(root: nn.Module) -> nn.Module | None:
    """The model's lm_head, by identity: models name it through ``get_output_embeddings``."""
    get = getattr(root, "get_output_embeddings", None)
    head = get() if callable(get) else None
    return head if isinstance(head, nn.Module) else None
