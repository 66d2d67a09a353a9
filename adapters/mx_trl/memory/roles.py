"""The models of a stage, without weights: which parameters each role has, trains, packs and may release."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from mx_plugin.config import MXConfig
from mx_plugin.errors import MXError
from mx_plugin.execution.engine import Engine
from mx_plugin.execution.layer import AdoptedLayer
from mx_plugin.execution.phases import GRADIENT, REWARD, ROLLOUT
from mx_plugin.execution.qualification import one_format, phases_of
from mx_plugin.formats.spec import FP16, get_format
from mx_plugin.plugins import get_backend
from mx_plugin.precision.provider_choice import make_provider

from ..errors import StageError
from .configs import load_config
from .request import NO_POLICY, Request
from .shape import Shape, read_shape

CASES = {
    "ppo": ("policy", "value", "reference", "reward"),
    "grpo": ("policy", "reference", "reward"),
    "sft": ("policy",),
    "dpo": ("policy", "reference"),
    "reward": ("reward",),
}
"""Which roles a stage may have; a reference goes with LoRA (the policy without its adapters is one), or with beta=0."""


_PHASES = (ROLLOUT, REWARD, GRADIENT)


@dataclass
class RoleMemory:
    """One role's bytes. ``trained``: parameters with a gradient, ``trained_numbers`` their count.

    ``packed``: by weight format, the copies that MX makes; ``released``: full-precision weights that only these stand
    for; ``largest``: of one trained weight; ``copied_head``: by phase, the output head's weight where a product with
    a slice of hidden states copies it for each sequence.
    """

    shape: Shape
    weights: int
    trained: int = 0
    tied: int = 0
    largest: int = 0
    head: int = 0
    copied_head: dict[str, int] = field(default_factory=dict)
    packed: dict[str, int] = field(default_factory=dict)
    released: int = 0
    scratch: int = 0

    @property
    def is_trained(self) -> bool:
        return self.trained > 0


def roles_of(request: Request) -> dict[str, RoleMemory]:
    """Every model of the run, made on the meta device, and what MX would do to its layers.

    Raises:
        StageError: a model has no readable config, an architecture without formula, or lengths beyond its context.
        PolicyError: no such precision policy, or one that does not fit these layers.
    """
    # What decides about no model: suggestions and searches ask for many requests that differ in these alone.
    alike = replace(
        request, accumulation=1, rollout_batch=1, mini_batches=1, gradient_checkpointing=False, devices=1, padded=True,
        mismatch_samples=1,
    )  # fmt: skip
    return _roles_of(alike)


@lru_cache(maxsize=16)
def _roles_of(request: Request) -> dict[str, RoleMemory]:
    configs = _configs(request)
    models = {role: _model(config, role, request) for role, config in configs.items()}
    shapes = {role: read_shape(config, _name(request, role)) for role, config in configs.items()}
    _check_context(request, shapes)
    found = {role: _measure(model, shapes[role]) for role, model in models.items()}
    if request.shared_trunk and "value" in found:
        own = nbytes(models["value"].get_submodule("score"))
        found["value"].weights = found["value"].trained = own
    if request.policy != NO_POLICY:
        _add_formats(request, models, found)
    return found


def _name(request: Request, role: str) -> str:
    other = {"reward": request.reward_model, "value": request.value_model}.get(role)
    return request.model if other in (None, "rule") else str(other)


def _configs(request: Request) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    for role in CASES[request.stage]:
        if role == "reference" and (request.lora_r or (request.stage == "grpo" and not request.beta)):
            continue
        if role == "reward" and request.stage == "grpo" and request.reward_model is None:
            continue
        if role == "reward" and request.reward_model == "rule":
            continue
        chosen[role] = load_config(_name(request, role))
    return chosen


def scorer_config(config: Any) -> Any:
    """The config of a model with one score instead of an output head."""
    scorer = copy.deepcopy(config)
    scorer.num_labels, scorer.tie_word_embeddings, scorer.pad_token_id = 1, False, 0
    return scorer


def _model(config: Any, role: str, request: Request) -> nn.Module:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    read_shape(config, _name(request, role))
    dtype = getattr(torch, request.dtype)
    with torch.device("meta"):
        if role in ("value", "reward"):
            made = AutoModelForSequenceClassification.from_config(scorer_config(config), dtype=dtype)
        else:
            made = AutoModelForCausalLM.from_config(config, dtype=dtype)
        trained = role in ("policy", "value") or request.stage == "reward"
        if request.lora_r and trained and role != "value":
            return _with_adapters(made, request.lora_r, role)
    return made.requires_grad_(trained)  # type: ignore[no-any-return]


def _with_adapters(model: Any, rank: int, role: str) -> nn.Module:
    try:
        from peft import get_peft_model
    except ImportError as error:
        raise StageError("--lora_r needs peft, which is not installed: pip install peft") from error
    return get_peft_model(model, lora_config(rank, role))  # type: ignore[no-any-return]


def lora_config(rank: int, role: str) -> Any:
    """Adapters on every linear layer but the head, PEFT's ``all-linear``."""
    from peft import LoraConfig

    kind = "SEQ_CLS" if role == "reward" else "CAUSAL_LM"
    return LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear", task_type=kind)


def nbytes(module: nn.Module, trained: bool = False) -> int:
    """Bytes of a module's parameters and buffers, or of the trained parameters; tied ones count once."""
    tensors = list(module.parameters()) if trained else [*module.parameters(), *module.buffers()]
    return sum(tensor.nbytes for tensor in tensors if tensor.requires_grad or not trained)


def _measure(model: nn.Module, shape: Shape) -> RoleMemory:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    head = getattr(model, "get_output_embeddings", lambda: None)()
    embedding = model.get_input_embeddings().weight  # type: ignore[operator]
    tied = head is not None and head.weight is embedding and embedding.requires_grad
    return RoleMemory(
        shape=shape,
        weights=nbytes(model),
        trained=nbytes(model, trained=True),
        tied=embedding.nbytes if tied else 0,
        largest=max((parameter.nbytes for parameter in trained), default=0),
        head=0 if head is None else head.weight.nbytes,
        copied_head=dict.fromkeys(_PHASES, 0 if head is None or not _is_copied(head.weight) else head.weight.nbytes),
    )


def _is_copied(weight: torch.Tensor) -> bool:
    """Whether torch copies a weight for each sequence of a batch.

    ``F.linear`` on a slice of positions (``logits_to_keep``) folds batch and positions only if the weight has a
    gradient; else it is a batched product with an expanded weight, which oneDNN's bfloat16 product makes contiguous.
    Seen on torch 2.13: a peak of exactly batch x weight.
    """
    return weight.dtype != torch.float32 and not weight.requires_grad


def _check_context(request: Request, shapes: dict[str, Shape]) -> None:
    for role, shape in shapes.items():
        if shape.context is not None and request.length > shape.context:
            raise StageError(
                f"--prompt_length {request.prompt_length} and --response_length {request.response_length} exceed the "
                f"context of {_name(request, role)}, {shape.context} tokens: shorten them"
            )


# ---------------------------------------------------------------------------- formats


def _add_formats(request: Request, models: dict[str, nn.Module], found: dict[str, RoleMemory]) -> None:
    """Ask the engine itself, on layers without memory, which formats each layer takes in each phase."""
    match_phase = ROLLOUT if request.stage == "ppo" else GRADIENT
    lora_reference = bool(request.lora_r) and request.stage == "ppo"
    config = MXConfig(policy=request.policy)
    try:
        backend = get_backend(request.backend)
    except MXError:
        backend = get_backend("reference")  # bytes of packed weights are the same; only formats are asked for
    engine = Engine(
        make_provider(config), backend, policy_scoring=ROLLOUT if lora_reference else GRADIENT, match_phase=match_phase
    )
    engine.adopt(models)
    try:
        for layer in engine.layers:
            _add_layer(request, engine, layer, found[layer.role], _used(request, layer.role, found))
    finally:
        engine.restore()
        backend.close()


def _used(request: Request, role: str, found: dict[str, RoleMemory]) -> tuple[str, ...]:
    """The phases in which a role's layers execute in this stage."""
    if role == "policy":
        generates = (ROLLOUT,) if request.stage in ("ppo", "grpo") else ()
        scores = (REWARD,) if request.lora_r and (request.stage in ("ppo", "dpo") or request.beta) else ()
        return (*generates, *scores, GRADIENT)
    if role == "value":
        return (REWARD, GRADIENT)
    return (GRADIENT,) if found[role].is_trained else (REWARD,)


def _add_layer(request: Request, engine: Engine, layer: AdoptedLayer, role: RoleMemory, used: tuple[str, ...]) -> None:
    numbers = layer.in_features * layer.out_features
    weight = numbers * request.element
    frozen = not layer.module.weight.requires_grad
    if request.release_frozen and frozen and not layer.is_lm_head:
        chosen = one_format(layer, phases_of(layer.role, role.is_trained), engine._asked)
        if not isinstance(chosen, str):
            role.released += weight
            _add_copy(request, role, chosen[0], layer)
            return
    if layer.is_lm_head:
        for phase in _PHASES:
            if engine.formats(layer, phase).quantised:
                role.copied_head[phase] = 0
    copies = set()
    for phase in used:
        formats = engine.formats(layer, phase)
        if phase == GRADIENT:
            if formats.quantised:
                role.scratch = max(role.scratch, _scratch(request, layer))
            continue
        if formats.weights != FP16:
            copies.add((formats.weights, formats.forward.scale_rule))
    for name, _ in sorted(copies):
        _add_copy(request, role, name, layer)


def _add_copy(request: Request, role: RoleMemory, name: str, layer: AdoptedLayer) -> None:
    if request.backend == "reference":  # holds the copy decoded
        size = layer.in_features * layer.out_features * request.element
    else:
        size = packed_bytes(layer.out_features, layer.in_features, name)
    role.packed[name] = role.packed.get(name, 0) + size


def packed_bytes(out_features: int, in_features: int, fmt: str) -> int:
    """Of a weight (out, in) packed along ``in``: whole blocks of elements, and a scale for each block."""
    form = get_format(fmt)
    blocks = -(-in_features // form.block_size)
    elements = -(-in_features * form.element.bits // 8)
    return out_features * (elements + blocks * form.scale_bits // 8)


def _scratch(request: Request, layer: AdoptedLayer) -> int:
    """Workspaces of training products (``mx_plugin.execution.scratch``): max(out in, T in) + T max(in, out)."""
    inner, outer, tokens = layer.in_features, layer.out_features, request.batch * request.length
    return (max(outer * inner, tokens * inner) + tokens * max(inner, outer)) * request.element
