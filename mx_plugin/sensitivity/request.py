"""What a profile is asked for, checked: words, files, batches by role, pairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from ..errors import PolicyError, nearest
from ..execution.layer import AdoptedLayer
from ..formats.spec import FP16
from ..precision.entry import canonical_entry, check_word
from ..precision.formats import PHASES, ROLES
from ..precision.patterns import matches, nearest_layer
from .batches import Batch, BatchLike, as_batches
from .errors import ProfileError

ENGINES = ("exact", "fast")

Pairs = Sequence[tuple[BatchLike, BatchLike]]
"""(chosen, rejected) batches of the same number of sequences: row i of one belongs to row i of the other."""

BatchesByRole = Iterable[BatchLike] | Mapping[str, Iterable[BatchLike]]
"""Batches of all roles, or a mapping role -> batches."""


def checked_entries(formats: Sequence[str]) -> tuple[str, ...]:
    """Canonical formats and pairs, each once.

    Raises:
        ProfileError: none, a text instead of a list, or ``FP16``.
        PolicyError: an unknown format.
    """
    if isinstance(formats, str) or not formats:
        raise ProfileError(f"formats is {formats!r}; give a list of names or pairs, such as ['MXFP4', 'MXFP8/MXFP4']")
    entries = tuple(dict.fromkeys(canonical_entry(fmt) for fmt in formats))
    if FP16 in entries:
        raise ProfileError("FP16 means unquantised, which costs nothing by definition; leave it out of formats")
    return entries


def check_words(phases: Sequence[str] | None, roles: Iterable[str], engine: str) -> None:
    """Raises PolicyError for an unknown phase, role or engine, with the nearest."""
    for phase in phases or ():
        check_word("phase", phase, PHASES)
    for role in roles:
        check_word("role", role, ROLES)
    if engine not in ENGINES:
        raise PolicyError(f"unknown engine {engine!r}: {nearest(engine, ENGINES)}")


def checked_path(output: str | Path | None) -> Path | None:
    """Raises ProfileError for a place where no file can be."""
    if output is None:
        return None
    path = Path(output)
    if path.is_dir():
        raise ProfileError(f"cannot write {path}: it is a folder; name a file in it, such as sensitivity_matrix.csv")
    if not path.parent.is_dir():
        raise ProfileError(f"cannot write {path}: the folder {path.parent} does not exist; make it first")
    return path


def check_exclusions(exclude: Sequence[str], layers: Sequence[AdoptedLayer]) -> None:
    """Raises ProfileError for a pattern that matches no layer, with the nearest."""
    names = [layer.name for layer in layers]
    for pattern in exclude:
        if not any(matches(pattern, name) for name in names):
            raise ProfileError(f"exclude {pattern!r} matches no adopted layer: {nearest_layer(pattern, names)}")


def batches_by_role(
    batches: BatchesByRole, roles: Iterable[str], pairs: Pairs
) -> tuple[dict[str, list[Batch]], torch.Tensor | None]:
    """Batches of each role, and the pairs as (pairs, 2) indices of the reward model's scores.

    Raises:
        ProfileError: a role without batches, batches without anything in them, pairs that do not fit.
    """
    if isinstance(batches, Mapping) and not set(batches) <= set(ROLES):
        keys = ", ".join(map(str, batches))
        raise ProfileError(f"batches is a list of them, or a mapping by role; no roles are: {keys}")
    given = batches if isinstance(batches, Mapping) else {"policy": batches}
    data = {role: as_batches(items, f"role {role}") for role, items in given.items()}
    scored = None
    roles = list(roles)
    if pairs:
        if "reward" not in roles:
            raise ProfileError("pairs are for a reward model: give models={'reward': ...}")
        data["reward"], scored = _paired(pairs)
    for role in roles:
        if role not in data and "policy" not in data:
            raise ProfileError(f"no batches for role {role}; batches are given for {', '.join(data)}")
        data.setdefault(role, data.get("policy", []))
    return data, scored


def _paired(pairs: Pairs) -> tuple[list[Batch], torch.Tensor]:
    flat: list[Batch] = []
    indices: list[tuple[int, int]] = []
    start = 0
    for number, pair in enumerate(pairs):
        chosen, rejected = as_batches(pair, f"pair {number}")
        size = len(chosen.mask)
        if len(rejected.mask) != size:
            raise ProfileError(f"pair {number}: {size} chosen texts but {len(rejected.mask)} rejected ones")
        indices += [(start + row, start + size + row) for row in range(size)]
        flat += [chosen, rejected]
        start += 2 * size
    return flat, torch.tensor(indices)
