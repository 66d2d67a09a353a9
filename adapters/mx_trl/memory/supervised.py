"""Stages that learn from examples: SFT, reward model, DPO, as TRL's trainers run them."""

from __future__ import annotations

from collections.abc import Mapping

from . import fused_head
from .activations import FLOAT32, Pass
from .persistent import gradient_terms, optimiser_terms, packed_terms, runtime_term, weight_terms
from .request import Request
from .roles import RoleMemory
from .terms import Instant, Term

CHUNK = 256
"""Rows of a chunk of TRL's ``chunked_nll``, SFT's default loss (``sft_trainer._CHUNKED_LM_HEAD_CHUNK_SIZE``)."""

ENTROPY_CHUNK = 128
"""Rows of a chunk of ``entropy_from_logits``, with which DPO watches its policy."""

Found = tuple[list[Term], list[Instant]]


def persistent(request: Request, roles: Mapping[str, RoleMemory]) -> list[Term]:
    """Weights, packed copies and the runtime's own memory."""
    return [*weight_terms(request, roles), *packed_terms(roles), runtime_term(request)]


def backward(request: Request, roles: Mapping[str, RoleMemory], role: str, forward: Pass, held: int) -> list[Instant]:
    """The instants after the loss: the first layer of backward, its end, and the optimiser's step.

    ``held``: bytes of logits that live through backward.
    """
    memory = roles[role]
    checkpointing = request.gradient_checkpointing
    saved = Term("activations", role, forward.saved(checkpointing))
    recomputed = Term("activations", role, forward.saved_layer() if checkpointing else 0)
    layer = Term("activations", role, forward.backward_layer())
    accumulated = gradient_terms(roles) if request.accumulation > 1 else []
    widest = Term("gradients", role, memory.largest if accumulated else 0)
    head = Term("gradients", role, 0 if request.lora_r else memory.head)
    tied = Term("gradients", role, memory.tied)
    kept = (*optimiser_terms(roles), Term("logits", role, held), Term("scratch", role, memory.scratch))
    grads = accumulated or gradient_terms(roles)
    return [
        Instant(
            "backward enters the layers", "gradient", (*kept, *accumulated, saved, recomputed, layer, head)
        ),
        Instant("backward ends", "gradient", (*kept, *grads, tied, widest, recomputed, layer)),
        Instant("between two steps", "other", tuple(optimiser_terms(roles))),
    ]  # fmt: skip


def sft(request: Request, roles: Mapping[str, RoleMemory]) -> Found:
    """SFT: the loss is taken over chunks of rows, in float32, and each chunk's logits are computed anew in backward."""
    memory = roles["policy"]
    forward = Pass(
        memory.shape, request.batch, request.length, request.element, request.padded, cached=False,
        lora_r=request.lora_r,
    )  # fmt: skip
    loss = _fused_sft if fused_head.is_used() else _chunks
    saved = Term("activations", "policy", forward.saved(request.gradient_checkpointing))
    accumulated = gradient_terms(roles) if request.accumulation > 1 else []
    instants = loss(request, memory, forward, (*optimiser_terms(roles), *accumulated, saved))
    return persistent(request, roles), instants + backward(request, roles, "policy", forward, 0)


def _fused_sft(request: Request, memory: RoleMemory, forward: Pass, kept: tuple[Term, ...]) -> list[Instant]:
    return fused_head.learning(forward, "policy", kept, "gradient", ranked=True, trained_head=not request.lora_r)


def _chunks(request: Request, memory: RoleMemory, forward: Pass, kept: tuple[Term, ...]) -> list[Instant]:
    rows = min(CHUNK, request.batch * (request.length - 1))
    table = rows * memory.shape.vocabulary * FLOAT32
    numbers = memory.shape.vocabulary * memory.shape.hidden
    converted = numbers * FLOAT32 if request.dtype != "float32" else 0
    gradient = 0 if request.lora_r else numbers * FLOAT32 + memory.head * (request.batch * request.length > CHUNK)
    return [
        Instant(
            "a chunk's log-probabilities, their exponentials and product",
            "gradient",
            (*kept, Term("logits", "policy", 4 * table + converted)),
        ),
        Instant(
            "a chunk's backward",
            "gradient",
            (*kept, Term("logits", "policy", 3 * table + converted), Term("gradients", "policy", gradient)),
        ),
    ]


def reward(request: Request, roles: Mapping[str, RoleMemory]) -> Found:
    """A reward model on pairs: chosen and rejected in one batch of 2 B."""
    memory = roles["reward"]
    forward = Pass(
        memory.shape, 2 * request.batch, request.length, request.element, request.padded, cached=False,
        lora_r=request.lora_r,
    )  # fmt: skip
    return persistent(request, roles), backward(request, roles, "reward", forward, 0)


def dpo(request: Request, roles: Mapping[str, RoleMemory]) -> Found:
    """DPO: the policy's forward, then the reference's; what follows until backward is still phase ``reward``."""
    memory = roles["policy"]
    forward = Pass(
        memory.shape, 2 * request.batch, request.length, request.element, request.padded, cached=False,
        lora_r=request.lora_r,
    )  # fmt: skip
    reference = "reference" if "reference" in roles else "policy"
    scored = Pass(
        roles[reference].shape, 2 * request.batch, request.length, request.element, request.padded, cached=False
    )
    saved = Term("activations", "policy", forward.saved(request.gradient_checkpointing))
    accumulated = gradient_terms(roles) if request.accumulation > 1 else []
    kept = (*optimiser_terms(roles), *accumulated, saved)
    if fused_head.is_used():
        instants = _fused_dpo(request, forward, reference, scored, kept)
        return persistent(request, roles), instants + backward(request, roles, "policy", forward, 0)
    instants = _dpo_tables(request, forward, reference, scored, kept)
    return persistent(request, roles), instants + backward(request, roles, "policy", forward, forward.logits())


def _fused_dpo(request: Request, forward: Pass, reference: str, scored: Pass, kept: tuple[Term, ...]) -> list[Instant]:
    within = Term("activations", reference, scored.within_layer())
    tile = Term("logits", reference, fused_head.scoring(scored, ranked=False))
    return [
        Instant("the reference's layers execute", "reward", (*kept, within)),
        Instant("a tile of the reference's log-probabilities", "reward", (*kept, tile)),
        *fused_head.learning(forward, "policy", kept, "gradient", ranked=True, trained_head=not request.lora_r),
    ]


def _dpo_tables(request: Request, forward: Pass, reference: str, scored: Pass, kept: tuple[Term, ...]) -> list[Instant]:
    table = forward.logits()
    # selective_log_softmax keeps the logits in float32, and makes two more tables of them in backward; below, it keeps
    # every row's log-probabilities, beside the logits until the loss is there, beside their gradient in backward.
    exact = request.dtype == "float32"
    held = Term("logits", "policy", table if exact else table + forward.logits(request.length - 1))
    learnt = Term("logits", "policy", (3 if exact else 2) * table)
    chunk = 3 * ENTROPY_CHUNK * forward.shape.vocabulary * request.element
    return [
        Instant(
            "the reference's layers execute",
            "reward",
            (*kept, held, Term("activations", reference, scored.within_layer())),
        ),
        Instant(
            "the entropy is computed beside both models' logits",
            "reward",
            (*kept, held, Term("logits", reference, table), Term("logits", "policy", table + chunk)),
        ),
        Instant("backward of the loss reaches the logits", "gradient", (*kept, learnt)),
    ]
