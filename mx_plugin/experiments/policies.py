"""The precision policies of an experiment: named, made explicit, and checked against the layers of its models."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import PolicyError
from ..interfaces import LayerInfo
from ..precision import PrecisionPolicy, SensitivityMatrix
from ..precision.load import find_policy
from ..precision.max_cost import MaxCost
from ..precision.provider import PolicyProvider
from ..precision.search.shapes import check_layers
from .drawn import draw
from .errors import ExperimentError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
"""What may name a run: it names its folder too."""


@dataclass(frozen=True)
class Layer:
    """A layer that a run adopts, and the dtype of its weight, e.g. ``float32``."""

    info: LayerInfo
    dtype: str


def read_layers(rows: Iterable[Mapping[str, Any]]) -> tuple[Layer, ...]:
    """The layers as the adapter's examination of the start wrote them."""
    found = []
    for row in rows:
        fields = dict(row)
        dtype = fields.pop("dtype")
        found.append(Layer(LayerInfo(**fields), dtype))
    return tuple(found)


def load_policies(
    specs: Sequence[str],
    layers: Sequence[Layer],
    matrix: str | Path | None = None,
    max_cost: MaxCost | None = None,
    budget: Mapping[str, float] | None = None,
) -> dict[str, PrecisionPolicy]:
    """Each policy under the name that its runs get: built-in, a YAML file, or ``NAME=FILE``.

    ``matrix``, ``max_cost`` and ``budget`` are for the policies that are drawn from a matrix, such as D: see ``draw``.

    Raises:
        PolicyError: no such policy; one that does not fit the layers; a matrix that no policy takes.
        MatrixError: the matrix cannot be read, or is for another model: names the first layers that differ.
        ExperimentError: a name that cannot name a folder, or given twice.
    """
    read = None if matrix is None else SensitivityMatrix.read(matrix)
    infos = [layer.info for layer in layers]
    if read is not None:
        check_layers(read, infos)
    found: dict[str, PrecisionPolicy] = {}
    took_matrix = False
    for spec in specs:
        name, policy = _one(spec)
        if policy.needs_matrix:
            took_matrix = True
            if read is None:
                raise PolicyError(
                    f"policy {name} chooses formats from a sensitivity matrix: give --matrix, from mx-plugin profile, "
                    f"or a policy that mx-plugin policy search wrote, as {name}=FILE"
                )
            policy = draw(policy, read, layers, max_cost, budget)
        if name in found:
            raise ExperimentError(f"policy {name!r} is given twice; name one otherwise, e.g. {name}2=FILE")
        found[name] = checked(replace(policy, name=name), infos)
    if read is not None and not took_matrix:
        raise PolicyError(
            f"--matrix {matrix} is given, but of {', '.join(specs)} none takes a matrix; add D, or leave it"
        )
    return found


def needs_matrix(specs: Sequence[str]) -> bool:
    """Whether one of these policies is drawn from a matrix.

    Raises:
        PolicyError, ExperimentError: no such policy, or a name that cannot name a folder.
    """
    return any(_one(spec)[1].needs_matrix for spec in specs)


def checked(policy: PrecisionPolicy, layers: Sequence[LayerInfo]) -> PrecisionPolicy:
    """The policy, if its rules fit the layers.

    Raises:
        PolicyError: a rule that matches no layer, named with the nearest.
    """
    try:
        PolicyProvider(policy).start(layers)
    except PolicyError as error:
        raise PolicyError(f"policy {policy.name}: {error}") from error
    return policy


def _one(spec: str) -> tuple[str, PrecisionPolicy]:
    name, equals, source = spec.partition("=")
    policy = find_policy(source if equals else spec)
    chosen = name if equals else policy.name
    if not NAME.fullmatch(chosen):
        raise ExperimentError(
            f"{chosen!r} cannot name a folder: use letters, digits, '.', '-', '_' or '+', e.g. mine={source or spec}"
        )
    return chosen, policy
