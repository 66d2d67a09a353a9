"""``PrecisionPolicy``: (layer, phase, role) -> formats, as explicit, ordered rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import PolicyError
from ..formats.spec import FP16, SCALE_RULES
from .entry import Entry, GradientEntry, canonical_entry, check_word, inner_phase, layer_formats
from .formats import PHASES, ROLES, LayerFormats
from .patterns import matches, names_lm_head

if TYPE_CHECKING:
    from .matrix import SensitivityMatrix
    from .max_cost import MaxCost

POLICY_VERSION = 1

WHY_LM_HEAD = (
    "several trainers read lm_head.weight directly when they score and train, so its format would differ "
    "between phases; lm_head takes a format in rollout only"
)


@dataclass(frozen=True)
class PhaseEntries:
    """One entry per phase; None leaves the phase to whatever is less specific.

    Raises:
        PolicyError: unknown format, or per-product entries outside ``gradient``.
    """

    rollout: Entry | None = None
    reward: Entry | None = None
    gradient: Entry | None = None

    def __post_init__(self) -> None:
        for phase in PHASES:
            entry = self.of(phase)
            if isinstance(entry, GradientEntry):
                _check_products((phase,))
            elif entry is not None:
                object.__setattr__(self, phase, canonical_entry(entry))

    def of(self, phase: str) -> Entry | None:
        """The entry of that phase."""
        entry: Entry | None = getattr(self, phase)
        return entry


@dataclass(frozen=True)
class Rule:
    """``layers`` (a glob or an exact prefix) in ``phases`` for ``roles`` run in ``format``.

    Empty ``phases`` or ``roles`` mean all of them.

    Raises:
        PolicyError: empty pattern; unknown phase, role or format; per-product entries outside
            ``gradient``; lm_head outside ``rollout``.
    """

    layers: str
    format: Entry
    phases: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.layers, str) or not self.layers.strip():
            raise PolicyError(f"layers is {self.layers!r}; write a layer name, a prefix of one or a glob pattern")
        for phase in self.phases:
            check_word("phase", phase, PHASES)
        for role in self.roles:
            check_word("role", role, ROLES)
        if isinstance(self.format, GradientEntry):
            _check_products(self.phases)
        else:
            object.__setattr__(self, "format", canonical_entry(self.format))
        if names_lm_head(self.layers) and self.phases != ("rollout",):
            raise PolicyError(f"rule for {self.layers!r} is not limited to rollout: {WHY_LM_HEAD}; add phases: rollout")

    def applies(self, phase: str, role: str) -> bool:
        """True when the rule speaks about that phase and role."""
        return (not self.phases or phase in self.phases) and (not self.roles or role in self.roles)


@dataclass(frozen=True)
class PrecisionPolicy:
    """Which formats a layer runs in, by phase and role. Immutable; YAML in and out.

    The last rule that matches wins; then come ``roles``, then ``defaults`` (FP16 where silent).
    ``exclude`` overrules them all: those layers stay in the model's own dtype. ``lm_head`` is the
    entry that output heads take in ``rollout`` (None: FP16); elsewhere they are always FP16.
    ``activations`` completes an entry that is a single name. ``needs_matrix`` marks a policy whose
    rules are still to be drawn from a sensitivity matrix (``load_policy`` does so). ``source`` says
    where the policy came from, for messages, and takes no part in comparisons.

    Raises:
        PolicyError: any unknown word, with the nearest valid one.
    """

    name: str
    description: str = ""
    activations: str = "MXFP8"
    scale_rule: str = "rceil"
    defaults: PhaseEntries = PhaseEntries()
    roles: Mapping[str, PhaseEntries] = field(default_factory=dict, hash=False)
    lm_head: str | None = None
    rules: tuple[Rule, ...] = ()
    exclude: tuple[str, ...] = ()
    needs_matrix: bool = False
    version: int = POLICY_VERSION
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        check_version(self.version)
        for key in ("name", "description"):
            if not isinstance(getattr(self, key), str):
                raise PolicyError(f"{key} is {getattr(self, key)!r}; write text (in quotes)")
        object.__setattr__(self, "activations", _single_name(self.activations))
        check_word("scale_rule", self.scale_rule, SCALE_RULES)
        for role in self.roles:
            check_word("role", role, ROLES)
        object.__setattr__(self, "roles", dict(self.roles))
        if self.lm_head is not None:
            object.__setattr__(self, "lm_head", canonical_entry(self.lm_head))
        for pattern in self.exclude:
            if not isinstance(pattern, str) or not pattern.strip():
                raise PolicyError(f"exclude holds {pattern!r}; write a layer name, a prefix of one or a glob pattern")

    def resolve(self, layer_name: str, phase: str, role: str = "policy", *, is_lm_head: bool = False) -> LayerFormats:
        """Formats of one layer. An ``eval/`` phase resolves as the phase within.

        Raises:
            PolicyError: unknown phase or role, or a policy that still needs its matrix.
        """
        if self.needs_matrix:
            raise PolicyError(
                f"policy {self.name} has no rules yet: they come from a sensitivity matrix; "
                "use load_policy(..., sensitivity_matrix=..., max_cost=...)"
            )
        phase = inner_phase(phase)
        check_word("role", role, ROLES)
        entry = self.entry(layer_name, phase, role, is_lm_head=is_lm_head)
        return layer_formats(entry, phase, self.activations, self.scale_rule)

    def entry(self, layer_name: str, phase: str, role: str = "policy", *, is_lm_head: bool = False) -> Entry:
        """What is written of a layer: a name or pair, or the three products of ``gradient``; ``resolve`` reads it."""
        if any(matches(pattern, layer_name) for pattern in self.exclude) or (is_lm_head and phase != "rollout"):
            return FP16
        for rule in self._newest_first[phase, role]:
            if matches(rule.layers, layer_name) and (not is_lm_head or self._names(rule, layer_name)):
                return rule.format
        if is_lm_head:
            return self.lm_head or FP16
        by_role = self.roles[role].of(phase) if role in self.roles else None
        return by_role or self.defaults.of(phase) or FP16

    @staticmethod
    def _names(rule: Rule, lm_head: str) -> bool:
        # A rule for "*" is meant for the layers of the trunk; a head must be asked for by name.
        return rule.layers == lm_head or names_lm_head(rule.layers)

    @cached_property
    def _newest_first(self) -> dict[tuple[str, str], tuple[Rule, ...]]:
        newest = self.rules[::-1]
        return {
            (phase, role): tuple(rule for rule in newest if rule.applies(phase, role))
            for phase in PHASES
            for role in ROLES
        }

    def uncovered(self, layers: Iterable[str], phase: str | None = None, role: str = "policy") -> list[str]:
        """Those of ``layers`` that no rule speaks about, in ``phase`` (None: in any phase) for ``role``."""
        patterns = {rule.layers for p in PHASES if phase in (None, p) for rule in self._newest_first[p, role]}
        return [name for name in layers if not any(matches(pattern, name) for pattern in patterns)]

    @classmethod
    def from_matrix(
        cls,
        matrix: SensitivityMatrix,
        max_cost: MaxCost,
        *,
        base: PrecisionPolicy | None = None,
    ) -> PrecisionPolicy:
        """Policy D: for each (layer, phase, role) of the matrix, the narrowest format that is cheap enough.

        The choices become explicit rules, in front of those of ``base`` (default: the built-in D),
        from which everything else is taken. A layer of the matrix may be a prefix; the longest wins.

        Raises:
            PolicyError: ``max_cost`` does not fit the matrix's units, phases or roles.
        """
        from .from_matrix import policy_from_matrix

        return policy_from_matrix(matrix, max_cost, base)

    @classmethod
    def from_yaml(cls, path: str | Path) -> PrecisionPolicy:
        """Read a YAML file.

        Raises:
            PolicyError: unreadable file, YAML syntax (file and line), or what ``from_dict`` raises.
        """
        from .policy_file import read_policy

        return read_policy(Path(path))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str = "policy") -> PrecisionPolicy:
        """Build from plain data, as ``to_dict`` gives it.

        Raises:
            PolicyError: an unknown key or word; names ``source``, the key path and the nearest word.
        """
        from .policy_file import policy_from_plain

        return policy_from_plain(data, source)

    def to_dict(self) -> dict[str, Any]:
        """Plain data (text, numbers, lists, mappings) that ``from_dict`` reads back to an equal policy."""
        from .policy_file import policy_to_plain

        return policy_to_plain(self)

    def to_yaml(self, path: str | Path | None = None) -> str:
        """YAML text that reads back to an equal policy; also written to ``path`` when given."""
        from .policy_file import policy_to_yaml

        text = policy_to_yaml(self)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text


def check_version(version: object) -> None:
    """Raise PolicyError unless this code reads policies of that version."""
    if type(version) is not int or version != POLICY_VERSION:
        raise PolicyError(
            f"policy version {version!r} is not known here, where version {POLICY_VERSION} is read; "
            "upgrade mx-plugin, or rewrite the policy as version 1"
        )


def _check_products(phases: tuple[str, ...]) -> None:
    if phases != ("gradient",):
        where = ", ".join(phases) or "all phases"
        raise PolicyError(
            f"forward/dgrad/wgrad entries are for gradient alone, not for {where}: only gradient has three products"
        )


def _single_name(text: object) -> str:
    name = canonical_entry(text)
    if "/" in name:
        raise PolicyError(f"activations is {text!r}; write one format name, e.g. MXFP8")
    return name
