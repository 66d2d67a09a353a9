"""PPO as TRL 1.12's ``PPOTrainer`` runs it: the instants of one step in the steady state.

The source of each term is ``trl/experimental/ppo/ppo_trainer.py``. Worth knowing: logits of *all* responses of a step
are kept in float32 from sampling to the next step's sampling (``logitss`` is never deleted), so that they stand beside
activations and optimiser states.
"""

from __future__ import annotations

from collections.abc import Mapping

from .activations import FLOAT32, Pass
from .persistent import gradient_terms, optimiser_terms, packed_terms, runtime_term, weight_terms
from .request import Request
from .roles import RoleMemory
from .rollout import generation, probes
from .terms import Instant, Term

NOTES = (
    "TRL's PPO keeps float32 logits of every response of a step through the whole step and into the next",
    "TRL's PPO ignores gradient_checkpointing=True: call gradient_checkpointing_enable() on policy and critic",
)


def ppo(request: Request, roles: Mapping[str, RoleMemory]) -> tuple[list[Term], list[Instant]]:
    """Persistent terms and instants."""
    optimiser = optimiser_terms(roles)
    persistent = [*weight_terms(request, roles), *packed_terms(roles), runtime_term(request)]
    instants = [*_rollout(request, roles, optimiser), *_reward(request, roles, optimiser)]
    instants += _gradient(request, roles, optimiser)
    return persistent, instants


def _response_logits(request: Request, roles: Mapping[str, RoleMemory], batch: int) -> Term:
    size = batch * request.response_length * roles["policy"].shape.vocabulary * FLOAT32
    return Term("rollout logits", "policy", size)


def _rollout(request: Request, roles: Mapping[str, RoleMemory], optimiser: list[Term]) -> list[Instant]:
    policy, total = roles["policy"], request.step_batch
    batch = min(request.rollout_batch, total)
    last = total % batch or batch
    old = _response_logits(request, roles, total)
    done = _response_logits(request, roles, total - last)
    kept = (*optimiser, old, done)
    instants, output = generation(request, policy, batch, kept, scores=True)
    stacked = _response_logits(request, roles, batch)
    instants.append(Instant("scores of the last forward batch are stacked", "other", (*kept, *output, stacked)))
    all_twice = (*optimiser, old, _response_logits(request, roles, total), _response_logits(request, roles, total))
    instants.append(Instant("logits of all responses are padded into one table", "other", all_twice))
    # The probe follows the step's first generation.
    first = (*output,)
    later = (*optimiser, old, *output)
    return instants + probes(request, policy, batch, first, later, reference=True)


def _reward(request: Request, roles: Mapping[str, RoleMemory], optimiser: list[Term]) -> list[Instant]:
    batch = min(request.rollout_batch, request.step_batch)
    kept = (*optimiser, _response_logits(request, roles, request.step_batch))
    reference = "reference" if "reference" in roles else "policy"
    instants = []
    scored = Pass(roles[reference].shape, batch, request.length, request.element, request.padded)
    cache = Term("KV cache", reference, scored.cache())
    hidden = Term("hidden states", reference, scored.hidden_states())
    logits = Term("logits", reference, scored.logits())
    row = Term("logits", reference, scored.logits(request.response_length) // batch)
    instants.append(
        Instant("the reference's logits become log-probabilities", "reward", (*kept, cache, hidden, logits, row))
    )
    within = Term("activations", reference, scored.within_layer())
    instants.append(Instant("the reference's layers execute", "reward", (*kept, cache, hidden, within)))
    for role in ("value", "reward"):
        if role in roles:
            found = Pass(roles[role].shape, batch, request.length, request.element, request.padded, cached=False)
            terms = (
                Term("hidden states", role, found.hidden_states()),
                Term("activations", role, found.within_layer()),
            )
            instants.append(Instant(f"the {role} model's layers execute", "reward", (*kept, *terms)))
    return instants


def _gradient(request: Request, roles: Mapping[str, RoleMemory], optimiser: list[Term]) -> list[Instant]:
    """One micro-batch: the critic's forward, the policy's, loss, the policy's backward, the critic's, the step."""
    policy, value = roles["policy"], roles["value"]
    rank = request.lora_r
    mine = Pass(policy.shape, request.batch, request.length, request.element, request.padded, lora_r=rank)
    theirs = Pass(value.shape, request.batch, request.length, request.element, request.padded)
    checkpointing = request.gradient_checkpointing
    kept = (*optimiser, _response_logits(request, roles, request.step_batch))
    micro_batches = request.accumulation // request.mini_batches
    accumulated = gradient_terms(roles) if micro_batches > 1 else []
    saved = Term("activations", "policy", mine.saved(checkpointing))
    value_saved = Term("activations", "value", theirs.saved(checkpointing))
    table, answers = mine.logits(), mine.logits(request.response_length)
    # ``output`` lives to the end of the mini-batch: logits, hidden states and the cache.
    output = _output(request, mine, freed=False)
    after = _output(request, mine, freed=True)
    previous = (Term("logits", "policy", answers),) if micro_batches > 1 else ()  # prob_dist of the last micro-batch
    begun = (*kept, *accumulated, *previous)

    def logits(size: int) -> Term:
        return Term("logits", "policy", size)

    head = Term("gradients", "policy", policy.head if not rank else 0)
    recomputed = Term("activations", "policy", mine.saved_layer() + mine.backward_layer() if checkpointing else 0)
    again = Term("activations", "value", theirs.saved_layer() + theirs.backward_layer() if checkpointing else 0)
    scratch = tuple(Term("scratch", role, m.scratch) for role, m in roles.items() if m.scratch)
    begun = (*begun, *scratch)
    policy_gradients = [] if accumulated else gradient_terms(roles, "policy")
    all_gradients = [] if accumulated else gradient_terms(roles)
    tied = Term("gradients", "policy", policy.tied)
    layer = Term("activations", "policy", mine.backward_layer())
    value_layer = Term("activations", "value", theirs.backward_layer())
    widest = Term("gradients", "value", value.largest if accumulated else 0)
    instants = [
        Instant(
            "backward of the loss reaches the logits",
            "gradient",
            (*begun, value_saved, saved, *output, logits(3 * table + 2 * answers)),
        ),
        Instant(
            "backward leaves the output head",
            "gradient",
            (*begun, value_saved, saved, *output, logits(2 * table), head, recomputed),
        ),
        Instant(
            "the policy's backward ends",
            "gradient",
            (*begun, value_saved, *after, logits(table), *policy_gradients, tied, recomputed, layer),
        ),
        Instant(
            "the critic's backward ends",
            "gradient",
            (*begun, *after, logits(table), *all_gradients, widest, again, value_layer),
        ),
    ]
    if micro_batches > 1:
        both = (*begun, value_saved, saved, *output, *after, logits(2 * table))
        instants.append(Instant("a forward ends while the last one's output is there", "gradient", both))
    entropy = (*kept, *scratch, *accumulated, *after, logits(table + 3 * answers))
    instants.append(Instant("the entropy is computed", "gradient", entropy))
    return instants


def _output(request: Request, forward: Pass, freed: bool) -> tuple[Term, ...]:
    """What TRL's ``output`` holds beside the logits; ``freed``: backward has let go of what autograd had saved."""
    if request.gradient_checkpointing:
        hidden = forward.hidden_states() if freed else forward.hidden()
        return (Term("hidden states", "policy", hidden),)
    apart = forward.element != FLOAT32  # autograd saves float32 copies, not the states
    hidden = forward.hidden_states() if freed or apart else 0
    repeated = forward.masked and forward.shape.grouped
    cache = forward.cache() if freed or repeated else 0
    return (Term("hidden states", "policy", hidden), Term("KV cache", "policy", cache))
