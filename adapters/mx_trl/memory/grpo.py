"""GRPO as TRL's ``GRPOTrainer`` runs it, generating by transformers' ``generate``.

Sources: ``trl/trainer/grpo_trainer.py`` (``_get_per_token_logps_and_entropies``), ``selective_log_softmax`` (1.12) and
the fused head (:mod:`~mx_trl.memory.fused_head`). A generation serves one optimiser step (``num_iterations=1``), so no
old log-probabilities are computed.
"""

from __future__ import annotations

from collections.abc import Mapping

from mx_plugin.execution.phases import GRADIENT, REWARD

from . import fused_head
from .activations import Pass
from .persistent import gradient_terms, optimiser_terms
from .request import NO_POLICY, Request
from .roles import RoleMemory
from .rollout import generation, probes
from .supervised import ENTROPY_CHUNK, backward, persistent
from .terms import Instant, Term


def grpo(request: Request, roles: Mapping[str, RoleMemory]) -> tuple[list[Term], list[Instant]]:
    """Persistent terms and instants."""
    optimiser = tuple(optimiser_terms(roles))
    policy, total = roles["policy"], request.step_batch
    instants, _ = generation(request, policy, total, optimiser, scores=False)
    instants += probes(request, policy, total, (), optimiser, reference=_has_reference(request, roles))
    instants += _scoring(request, roles, optimiser)
    forward = _forward(request, policy)
    saved = Term("activations", "policy", forward.saved(request.gradient_checkpointing))
    accumulated = gradient_terms(roles) if request.accumulation > 1 else []
    kept = (*optimiser, *accumulated, saved)
    if fused_head.is_used():
        trained = not request.lora_r
        instants += fused_head.learning(forward, "policy", kept, "gradient", ranked=False, trained_head=trained)
    else:
        instants += _tables_of_loss(request, forward, kept, policy.copied_head[GRADIENT])
    return persistent(request, roles), instants + backward(request, roles, "policy", forward, 0)


def _tables_of_loss(request: Request, forward: Pass, kept: tuple[Term, ...], head: int) -> list[Instant]:
    answers, one_more = _tables(request, forward)
    # Below float32, selective_log_softmax keeps every row's log-probabilities for backward.
    rows = answers if request.dtype != "float32" else 0
    chunk = 3 * ENTROPY_CHUNK * forward.shape.vocabulary * request.element
    return [
        Instant(
            "the head takes the answers' positions",
            "gradient",
            (*kept, Term("logits", "policy", one_more), Term("copied head", "policy", forward.batch * head)),
        ),
        Instant(
            "the entropy is computed", "gradient", (*kept, Term("logits", "policy", one_more + answers + rows + chunk))
        ),
        Instant(
            "backward of the loss reaches the logits", "gradient", (*kept, Term("logits", "policy", 3 * answers + rows))
        ),
    ]


def _has_reference(request: Request, roles: Mapping[str, RoleMemory]) -> bool:
    return "reference" in roles or (bool(request.lora_r) and request.beta > 0)


def _forward(request: Request, memory: RoleMemory, batch: int | None = None) -> Pass:
    return Pass(
        memory.shape, batch or request.batch, request.length, request.element, request.padded, cached=False,
        lora_r=request.lora_r,
    )  # fmt: skip


def _tables(request: Request, forward: Pass) -> tuple[int, int]:
    """Logits of the response, and with one position more: the model gives R + 1, of which R are divided and used."""
    return forward.logits(request.response_length), forward.logits(request.response_length + 1)


def _scoring_logits(request: Request, forward: Pass, head: int) -> int:
    if fused_head.is_used():
        return fused_head.scoring(forward, ranked=False)
    answers, one_more = _tables(request, forward)
    return one_more + max(answers + answers // request.batch, forward.batch * head)


def _scoring(request: Request, roles: Mapping[str, RoleMemory], optimiser: tuple[Term, ...]) -> list[Instant]:
    instants = []
    scorers = []
    if _has_reference(request, roles):
        scorers.append("reference" if "reference" in roles else "policy")
    if request.policy != NO_POLICY and roles["policy"].packed:
        scorers.append("policy")  # the rollout correction's own pass
    for role in dict.fromkeys(scorers):
        forward = _forward(request, roles[role])
        within = (*optimiser, Term("activations", role, forward.within_layer()))
        instants += [
            Instant(f"the {role}'s layers execute", "reward", within),
            Instant(
                f"the {role}'s logits become log-probabilities",
                "reward",
                (*optimiser, Term("logits", role, _scoring_logits(request, forward, roles[role].copied_head[REWARD]))),
            ),
        ]
    if "reward" in roles:
        scored = _forward(request, roles["reward"], request.step_batch)
        within = (*optimiser, Term("activations", "reward", scored.within_layer()))
        instants.append(Instant("the reward model's layers execute", "reward", within))
    return instants
