"""The loss of SFT, DPO and GRPO where TRL takes it inside a fused lm_head (1.13 and later): no table of logits.

Source: ``ChunkedLogProbFunction`` of ``trl/kernels/chunked_logprob.py`` (1.16) as it runs without Triton, on a CPU. The
projection goes through one tile at a time, rows x columns of the vocabulary, and the torch operations on it each make
a float32 tensor of its size; backward makes the tile anew. On a GPU a Triton kernel does the same in place.
"""

from __future__ import annotations

from ..versions import installed_versions
from .activations import FLOAT32, Pass
from .terms import Instant, Term

ROWS, COLUMNS = 4096, 32768
"""The largest tile: ``TOKEN_CHUNK_SIZE`` and ``_CHUNKED_LOGPROB_CHUNK_SIZE``."""

SCORED, LEARNT = 3, 7
"""Float32 tensors of the tile's size at the peaks of forward and backward, beside the tile: scaled logits, their
exponentials and a product or difference; and in backward logits twice, log-probabilities, probabilities, the gradient,
the difference to the label and its product."""


def is_used() -> bool:
    """Whether the installed trl has it."""
    trl = installed_versions(["trl"]).get("trl")
    return trl is not None and tuple(int(part) for part in trl.split(".")[:2]) >= (1, 13)


def tile(forward: Pass) -> int:
    """Numbers of the largest tile: every position but the last is scored, whether its label counts or not."""
    rows = forward.batch * (forward.length - 1)
    return min(rows, ROWS) * min(forward.shape.vocabulary, COLUMNS)


def scoring(forward: Pass, ranked: bool) -> int:
    """Bytes at the peak of the forward pass; ``ranked``: it is also asked whether the label is the likeliest word."""
    return tile(forward) * (forward.element + SCORED * FLOAT32 + (1 if ranked else 0))


def learning(
    forward: Pass, role: str, kept: tuple[Term, ...], phase: str, ranked: bool, trained_head: bool
) -> list[Instant]:
    """The instants of the policy's pass: its head's forward in ``phase``, and the head's backward.

    ``kept``: what is alive beside. ``trained_head``: its weight's gradient is summed up in float32.
    """
    hidden = forward.batch * (forward.length - 1) * forward.shape.hidden
    inputs = Term("activations", role, hidden * forward.element)
    numbers = forward.shape.vocabulary * forward.shape.hidden if trained_head else 0
    gradients = Term("gradients", role, (hidden + numbers) * FLOAT32)
    backward = tile(forward) * (forward.element + LEARNT * FLOAT32 + 1)
    converted = numbers * forward.element if forward.element != FLOAT32 else 0
    return [
        Instant("a tile's log-probabilities", phase, (*kept, inputs, Term("logits", role, scoring(forward, ranked)))),
        Instant("a tile's backward", "gradient", (*kept, inputs, gradients, Term("logits", role, backward))),
        Instant(
            "the head's gradient is converted",
            "gradient",
            (*kept, inputs, gradients, Term("gradients", role, converted)),
        ),
    ]
