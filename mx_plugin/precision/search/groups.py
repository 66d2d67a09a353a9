"""From a sensitivity matrix to groups of options: the formats that each layer may take, their costs and prices."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from ...errors import MatrixError, PolicyError, nearest
from ...formats.spec import FP16, Pair, parse_pair
from ...interfaces import Capabilities
from ..matrix import MatrixRow, SensitivityMatrix
from ..max_cost import Scope
from ..patterns import first_five, prefixes
from .objective import Objective, Place
from .problem import Group, Option
from .seconds import MissingSeconds
from .shapes import Shapes

FORWARD_ONLY = "_forward"
"""A metric of ``gradient`` whose name holds this speaks about the forward product alone."""


@dataclass(frozen=True)
class Allowed:
    """Which formats may be chosen.

    ``formats``: pairs, or names completed by ``activations``; None for all that the matrix holds. ``capabilities``:
    of the backend that will run them, None for any. ``fp16``: whether layers may stay unquantised.
    """

    formats: Collection[str] | None = None
    capabilities: Capabilities | None = None
    activations: str = "MXFP8"
    fp16: bool = True
    _asked: frozenset[str] = field(init=False, default=frozenset())

    def __post_init__(self) -> None:
        asked = (str(parse_pair(text, self.activations)) for text in self.formats or ())
        object.__setattr__(self, "_asked", frozenset(asked))

    def pair(self, row: MatrixRow) -> Pair:
        """The pair that a row's format stands for."""
        return parse_pair(row.format, self.activations)

    def check(self, rows: Iterable[MatrixRow], source: str) -> None:
        """Raise PolicyError where a format was asked for that no row speaks about."""
        known = {str(self.pair(row)): None for row in rows} | {FP16: None}
        for asked in sorted(self._asked):
            if asked not in known:
                raise PolicyError(f"--formats names {asked}, of which {source} knows no cost: {nearest(asked, known)}")

    def refusal(self, pair: Pair, phase: str) -> str:
        """Why a pair may not be chosen in a phase; "" when it may."""
        if self.formats is not None and str(pair) not in self._asked:
            return "not in --formats"
        able = self.capabilities
        # A backend that casts no gradient operands leaves them to the reference, which has every format.
        if able is None or (phase == "gradient" and not able.fake_quantize):
            return ""
        activations = able.formats if phase == "gradient" else able.activations
        if pair.weights not in (FP16, *able.formats) or pair.activations not in (FP16, *activations):
            return "the backend does not have it"
        return ""


def groups_of(
    matrix: SensitivityMatrix, scopes: Collection[Scope], shapes: Shapes, objective: Objective, allowed: Allowed
) -> tuple[dict[Scope, tuple[Group, ...]], dict[str, str]]:
    """The groups of each scope, sorted by layer; and the formats left out, with the reason.

    FP16 is always among the options, at cost 0, unless ``allowed`` says otherwise.

    Raises:
        MatrixError: layers that contain one another; two rows that mean one pair; FP16 with a cost.
        PolicyError: a format asked for that the matrix does not hold; a layer that is left without any format.
        MXError: the objective cannot price a format.
    """
    keys = {key: rows for key, rows in matrix.groups.items() if key[1:] in scopes}
    allowed.check((row for rows in keys.values() for row in rows), matrix.source)
    left_out: dict[str, str] = {}
    missing: list[MissingSeconds] = []
    groups: dict[Scope, list[Group]] = {scope: [] for scope in scopes}
    for (layer, phase, role), rows in sorted(keys.items()):
        costs = _costs(rows, allowed, left_out, matrix.source)
        forward_only = phase == "gradient" and FORWARD_ONLY in rows[0].metric
        place = Place(layer, phase, role, shapes[layer, role], forward_only)
        options = []
        for format, cost in costs.items():
            try:
                options.append(Option(format, cost, objective.price(place, format)))
            except MissingSeconds as error:
                missing.append(error)
        groups[phase, role].append(Group(layer, phase, role, tuple(options), forward_only))
    if missing:
        raise MissingSeconds([each for error in missing for each in error.missing], missing[0].source)
    for scope, members in groups.items():
        _check_apart([group.layer for group in members], scope, matrix.source)
    return {scope: tuple(members) for scope, members in groups.items()}, left_out


def _costs(rows: Sequence[MatrixRow], allowed: Allowed, left_out: dict[str, str], source: str) -> dict[str, float]:
    """Cost by pair, FP16 first."""
    costs = {FP16: 0.0} if allowed.fp16 else {}
    where = f"{source}: layer {rows[0].layer!r}, {rows[0].phase}/{rows[0].role}"
    for row in rows:
        pair = allowed.pair(row)
        if not pair.quantised:
            if row.cost != 0:
                raise MatrixError(f"{where}: FP16 has the cost {row.cost:g}; costs are counted from it, so it is 0")
            continue
        refusal = allowed.refusal(pair, row.phase)
        if refusal:
            left_out[str(pair)] = refusal
            continue
        if str(pair) in costs:
            raise MatrixError(f"{where}: two rows mean {pair} (a single name takes {allowed.activations}); keep one")
        costs[str(pair)] = row.cost
    if not costs:
        why = "; ".join(f"{pair}: {reason}" for pair, reason in left_out.items())
        raise PolicyError(f"{where}: no format is left to choose from ({why}); allow FP16 or more formats")
    return costs


def _check_apart(layers: Sequence[str], scope: Scope, source: str) -> None:
    above = prefixes(layer.rpartition(".")[0] for layer in layers)
    containing = [layer for layer in layers if layer in above]
    if containing:
        raise MatrixError(
            f"{source}: {'/'.join(scope)} holds layers that contain others: {first_five(containing)}; their costs "
            "would count twice, keep either the whole or its parts"
        )
