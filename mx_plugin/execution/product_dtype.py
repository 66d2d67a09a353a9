"""What the training products of a float32 model multiply.

MX operands are exact in bfloat16, so multiplying them there loses nothing, as long as sums and results stay
float32. Not every machine gives such results; the choice is the user's, and config.json says what was done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import torch

from ..errors import PolicyError, nearest
from ..interfaces import Backend, MatrixProduct

CHOICES = ("auto", "bfloat16", "float32")
"""``auto``: bfloat16 where the backend returns float32 results, else float32. ``bfloat16``: always, with results
rounded to bfloat16 where there is nothing better. ``float32``: never bfloat16."""


def checked_choice(choice: str) -> str:
    """One of :data:`CHOICES`.

    Raises:
        PolicyError: it is not.
    """
    if choice not in CHOICES:
        raise PolicyError(f"gradient_product_dtype={choice!r} is not a choice: {nearest(str(choice), CHOICES)}")
    return choice


def narrow_product(choice: str, backend: Backend, weight: torch.Tensor) -> MatrixProduct | None:
    """What multiplies bfloat16 operands for this ``weight``; None: its products stay in the model's dtype."""
    if choice == "float32" or weight.dtype != torch.float32:
        return None
    exact = backend.bfloat16_product(weight.device)
    return rounded_product if exact is None and choice == "bfloat16" else exact


def rounded_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """bfloat16 operands, float32 sums, but a result that torch rounds to bfloat16."""
    return torch.mm(a, b).float()


def describe_products(choice: str, layers: Iterable[tuple[Backend, torch.Tensor]]) -> dict[str, int]:
    """How many of these (backend, weight) multiply what, where both operands are in an MX format."""
    found: Counter[str] = Counter()
    for backend, weight in layers:
        narrow = narrow_product(choice, backend, weight)
        if narrow is None:
            found[str(weight.dtype).removeprefix("torch.")] += 1
        else:
            found[f"bfloat16, results {'bfloat16' if narrow is rounded_product else 'float32'}"] += 1
    return dict(found)
