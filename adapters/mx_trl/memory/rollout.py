"""Generation by transformers' ``generate``, and the probe of the step-0 gate: the instants that PPO and GRPO share."""

from __future__ import annotations

from mx_plugin.execution.phases import ROLLOUT

from .activations import FLOAT32, Pass
from .request import NO_POLICY, Request
from .roles import RoleMemory
from .terms import Instant, Term

_SAMPLING = 5
"""Tables of (batch, vocabulary) float32 while one token is drawn: logits as they are, a float32 copy, the processed
scores, probabilities of this token and, until they are replaced, of the last."""

_COMPARED = 5
"""Tables of (samples, length, vocabulary) float32 in ``execution.mismatch.compare``: two of log-probabilities, their
difference, its weight, their product."""


def generation(
    request: Request, policy: RoleMemory, batch: int, kept: tuple[Term, ...], scores: bool
) -> tuple[list[Instant], tuple[Term, ...]]:
    """The instants of one ``generate`` of ``batch`` sequences beside ``kept``, and what its output holds.

    ``scores``: the logits of each step are kept in float32 (``output_scores=True``).
    """
    prompt = Pass(policy.shape, batch, request.prompt_length, request.element, request.padded)
    # The last token is sampled, but never read: the cache holds one position less.
    whole = Pass(policy.shape, batch, max(request.length - 1, 1), request.element, request.padded)
    table = batch * policy.shape.vocabulary * FLOAT32
    cache = Term("KV cache", "policy", whole.cache())
    growing = Term("KV cache", "policy", whole.cache(1) // 2)
    held = Term("logits", "policy", batch * request.response_length * policy.shape.vocabulary * FLOAT32 * scores)
    sampling = Term("logits", "policy", _SAMPLING * table)
    output = (cache, held) if scores else ()
    instants = [
        Instant(
            "the prompts are read",
            "rollout",
            (*kept, Term("KV cache", "policy", prompt.cache()), Term("activations", "policy", prompt.within_layer())),
        ),
        Instant(
            "the head takes the prompts' last positions",
            "rollout",
            (
                *kept,
                Term("KV cache", "policy", prompt.cache()),
                Term("copied head", "policy", batch * policy.copied_head[ROLLOUT]),
            ),
        ),
        Instant("the last token is sampled", "rollout", (*kept, cache, growing, held, sampling)),
    ]
    return instants, output


def probes(
    request: Request,
    policy: RoleMemory,
    batch: int,
    first: tuple[Term, ...],
    later: tuple[Term, ...],
    reference: bool,
) -> list[Instant]:
    """MX's mismatch probe: at step 0 beside ``first`` (no optimiser state yet), every tenth step beside ``later``."""
    if request.policy == NO_POLICY:
        return []
    samples = min(request.mismatch_samples, batch)
    sample = Pass(policy.shape, samples, request.length, request.element, request.padded, cached=False)
    logits = sample.logits()
    tables = samples * max(request.length - 1, 1) * policy.shape.vocabulary * FLOAT32
    passes = 3 if reference else 2
    gate = Term("probe's logits", "policy", passes * logits + _COMPARED * tables)
    again = Term("probe's logits", "policy", 2 * logits + _COMPARED * tables)
    return [
        Instant("the step-0 gate compares rollout, gradient and reference", "other", (*first, gate)),
        Instant("the mismatch probe compares", "other", (*later, again)),
    ]
