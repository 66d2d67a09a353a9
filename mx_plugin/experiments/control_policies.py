"""Precision policies of controls, made from another policy: explicit rules, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..formats.packing import row_bytes
from ..formats.spec import FP16, get_format
from ..formats.tensor import DTYPES
from ..precision import PrecisionPolicy, SensitivityMatrix
from ..precision.entry import Entry, GradientEntry, ProductEntry, layer_formats
from ..precision.formats import PHASES, Product
from ..precision.patterns import matches
from ..precision.policy import Rule
from .assignment import TOLERANCE, Slots, inverted_assignment, random_assignment
from .errors import ExperimentError
from .policies import Layer


@dataclass(frozen=True)
class Made:
    """A control's policy, and plain data about it for the plan."""

    policy: PrecisionPolicy
    about: Mapping[str, Any]


def random_policy(base: PrecisionPolicy, layers: Sequence[Layer], name: str, seed: int) -> Made:
    """``base``'s formats dealt to its layers at random, in every phase and role at equal packed bytes.

    Raises:
        ExperimentError: the policy gives all layers of a phase one format, so that nothing can be dealt.
    """
    number = iter(range(10_000))
    return _reassigned(base, layers, name, lambda scope: random_assignment(scope.slots, seed * 10_007 + next(number)),
                       {"assignment_seed": seed})  # fmt: skip


def inverted_policy(
    base: PrecisionPolicy, layers: Sequence[Layer], name: str, matrix: SensitivityMatrix | None = None
) -> Made:
    """The narrow formats to the layers that ``base`` protects, the wide ones to the others, at equal packed bytes.

    Among layers that ``base`` gives the same width, those of higher cost in the matrix count as more sensitive.

    Raises:
        ExperimentError: nothing can be inverted.
    """
    return _reassigned(
        base, layers, name, lambda scope: inverted_assignment(scope.slots, scope.sensitivity(matrix)), {}
    )


def matched_policy(base: PrecisionPolicy, layers: Sequence[Layer], name: str) -> Made:
    """Training's forward products in the formats of rollouts; everything else as in ``base``.

    The lm_head, which takes a format in rollouts only, takes none. So rollout and training compute the same numbers, up
    to the order of sums.

    Raises:
        ExperimentError: rollouts are not quantised at all.
    """
    rules, heads = [], []
    for layer in layers:
        info = layer.info
        if info.role != "policy":
            continue
        if info.is_lm_head:
            heads.append(info.name)
            continue
        rollout = base.resolve(info.name, "rollout", "policy").forward
        trained = base.resolve(info.name, "gradient", "policy")
        entry = GradientEntry(_product(rollout), _product(trained.dgrad), _product(trained.wgrad))
        rules.append((rollout, Rule(info.name, entry, ("gradient",), ("policy",))))
    if not any(rollout.pair.quantised for rollout, _ in rules):
        raise ExperimentError(f"policy {base.name} leaves rollouts unquantised: there is no mismatch to take away")
    policy = replace(
        base,
        name=name,
        description=f"{base.name} with training's forward products in the formats of rollouts.",
        rules=(*base.rules, *(rule for _, rule in rules)),
        exclude=(*base.exclude, *heads),
    )
    return Made(policy, {"of": base.name})


def _product(product: Product) -> ProductEntry:
    if not product.pair.quantised:
        return ProductEntry(FP16)
    return ProductEntry(str(product.pair), product.rounding, product.scale_rule, product.hadamard)


# ---------------------------------------------------------------------------- assignments


@dataclass(frozen=True)
class _Scope:
    """The layers of one phase and role, and the entries that the policy gives them."""

    phase: str
    role: str
    layers: Sequence[Layer]
    entries: Sequence[Entry]
    slots: Slots

    @property
    def name(self) -> str:
        return f"{self.phase}/{self.role}"

    def sensitivity(self, matrix: SensitivityMatrix | None) -> list[tuple[float, float]]:  # ordered, never added
        """(bytes a weight under the policy, highest finite cost in the matrix) of each layer."""
        widths = [
            self.slots.bytes_of[i][self.slots.now[i]] / (layer.info.in_features * layer.info.out_features)
            for i, layer in enumerate(self.layers)
        ]
        return [(width, self._cost(matrix, layer)) for width, layer in zip(widths, self.layers, strict=True)]

    def _cost(self, matrix: SensitivityMatrix | None, layer: Layer) -> float:
        rows = () if matrix is None else matrix.rows
        here = [r for r in rows if (r.phase, r.role) == (self.phase, self.role) and matches(r.layer, layer.info.name)]
        return max((row.cost for row in here), default=0.0)


def _reassigned(
    base: PrecisionPolicy,
    layers: Sequence[Layer],
    name: str,
    choose: Callable[[_Scope], list[int]],
    about: Mapping[str, Any],
) -> Made:
    rules: list[Rule] = []
    compared: dict[str, Any] = {}
    for scope in _scopes(base, layers):
        chosen = choose(scope)
        for layer, fmt in zip(scope.layers, chosen, strict=True):
            rules.append(Rule(layer.info.name, scope.entries[fmt], (scope.phase,), (scope.role,)))
        moved = sum(a != b for a, b in zip(chosen, scope.slots.now, strict=True))
        compared[scope.name] = {"bytes": scope.slots.total(chosen), "bytes_of_base": scope.slots.target,
                                "layers": len(chosen), "layers_that_differ": moved}  # fmt: skip
    if not compared:
        raise ExperimentError(
            f"policy {base.name} gives all layers of a phase the same format: {name} would be {base.name} again. This "
            "control is for policies that choose by layer, such as D"
        )
    policy = replace(base, name=name, description=f"A control of {base.name}.", rules=(*base.rules, *rules))
    return Made(policy, {"of": base.name, **about, "tolerance": TOLERANCE, "scopes": compared})


def _scopes(base: PrecisionPolicy, layers: Sequence[Layer]) -> Iterator[_Scope]:
    """Phases and roles in which the layers take more than one format; heads and excluded layers stay as they are."""
    for role in dict.fromkeys(layer.info.role for layer in layers):
        for phase in PHASES:
            trunk = [layer for layer in layers if layer.info.role == role and not layer.info.is_lm_head]
            trunk = [layer for layer in trunk if not any(matches(p, layer.info.name) for p in base.exclude)]
            given = [base.entry(layer.info.name, phase, role) for layer in trunk]
            entries = list(dict.fromkeys(given))
            if len(entries) > 1:
                weights = [layer_formats(e, phase, base.activations, base.scale_rule).weights for e in entries]
                sizes = [[weight_bytes(layer, fmt) for fmt in weights] for layer in trunk]
                yield _Scope(phase, role, trunk, entries, Slots(sizes, [entries.index(e) for e in given]))


def weight_bytes(layer: Layer, fmt: str) -> int:
    """Bytes of a layer's weight, packed in ``fmt`` along ``in`` with its scales; FP16: in the model's own dtype."""
    rows, columns = layer.info.out_features, layer.info.in_features
    if fmt == FP16:
        return rows * columns * DTYPES[layer.dtype].itemsize
    form = get_format(fmt)
    return rows * (row_bytes(columns, form.element.bits) + -(-columns // form.block_size))
