"""Terms that stand through a run or a phase, by role: weights, packed copies, optimiser states, gradients."""

from __future__ import annotations

from collections.abc import Mapping

from .request import NO_POLICY, Request
from .roles import RoleMemory
from .terms import Term

MIB = 2**20

RUNTIME_MIB = {"python": 38, "mx": 20, "bfloat16": 24}
"""What a process grows by without any tensor of a model: code and tables that torch, MKL, oneDNN, transformers and
datasets load on first use, kernels' buffers, small objects. Measured on Linux x86-64 with torch 2.13 on models of a
few hundred kilobytes (docs/memory.md); ``mx`` beside a precision policy, ``bfloat16`` oneDNN's compiled kernels."""

ADAM_STATES = 2
"""AdamW (Loshchilov and Hutter, 2019) keeps two running moments of each trained number, in the parameter's dtype."""


def weight_terms(request: Request, roles: Mapping[str, RoleMemory]) -> list[Term]:
    """Full-precision weights that are there, by role."""
    kind = f"weights FP16[{request.dtype}]"
    return [Term(kind, role, memory.weights - memory.released) for role, memory in roles.items()]


def packed_terms(roles: Mapping[str, RoleMemory]) -> list[Term]:
    """Packed copies, by role and format."""
    return [Term(f"packed {name}", role, size) for role, m in roles.items() for name, size in m.packed.items()]


def released_terms(request: Request, roles: Mapping[str, RoleMemory]) -> list[Term]:
    """Full-precision weights that ``release_frozen`` spares."""
    return [Term(f"weights FP16[{request.dtype}]", role, m.released) for role, m in roles.items() if m.released]


def optimiser_terms(roles: Mapping[str, RoleMemory]) -> list[Term]:
    """Both moments of all trained numbers; there from the first optimiser step on."""
    return [Term("optimiser", role, ADAM_STATES * m.trained) for role, m in roles.items() if m.is_trained]


def gradient_terms(roles: Mapping[str, RoleMemory], *only: str) -> list[Term]:
    """Gradients of the named roles' trained numbers, or of all."""
    return [
        Term("gradients", role, m.trained) for role, m in roles.items() if m.is_trained and (not only or role in only)
    ]


def runtime_term(request: Request) -> Term:
    """See :data:`RUNTIME_MIB`."""
    size = RUNTIME_MIB["python"]
    size += RUNTIME_MIB["mx"] if request.policy != NO_POLICY else 0
    size += RUNTIME_MIB["bfloat16"] if request.dtype == "bfloat16" else 0
    return Term("runtime", "process", size * MIB)
