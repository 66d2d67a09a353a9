"""``PolicyProvider``: a precision policy as the engine asks it, checked against the model's layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import PolicyError, nearest
from ..interfaces import LayerInfo, Provider
from .entry import check_word, inner_phase
from .formats import PHASES, ROLES, LayerFormats
from .patterns import first_five, is_glob, matches, nearest_layer, prefixes
from .policy import WHY_LM_HEAD, PrecisionPolicy, Rule


class PolicyProvider(Provider):
    """Answers by a :class:`mx_plugin.PrecisionPolicy`. After ``start`` only layers of the run have an answer."""

    def __init__(self, policy: PrecisionPolicy) -> None:
        self.policy = policy
        self._layers: dict[str, dict[str, LayerInfo]] = {}
        self._started = False
        self._answers: dict[tuple[str, str, str], LayerFormats] = {}

    def start(self, layers: Sequence[LayerInfo]) -> None:
        """Learn the run's layers; every pattern must match one.

        A rule for roles that the run does not have (a critic, when there is none) is passed over.

        Raises:
            PolicyError: a pattern that matches no layer, with the nearest layer's name and the first
                layers about which no rule speaks; a rule that gives an output head a format outside
                rollout.
        """
        by_role: dict[str, dict[str, LayerInfo]] = {}
        for layer in layers:
            check_word("role", layer.role, ROLES)
            by_role.setdefault(layer.role, {})[layer.name] = layer
        check_heads(self.policy, layers)
        check_patterns(self.policy, by_role)
        self._layers, self._answers, self._started = by_role, {}, True

    def get_precision(self, layer_name: str, phase: str, role: str = "policy") -> LayerFormats:
        """Formats of a layer, or those that all layers below a prefix share.

        Before ``start`` the policy's rules alone decide.

        Raises:
            PolicyError: unknown phase, role or (after ``start``) layer; layers below the prefix that
                differ, listed.
        """
        phase = inner_phase(phase)
        check_word("role", role, ROLES)
        key = (layer_name, phase, role)
        if key not in self._answers:
            self._answers[key] = self._answer(*key)
        return self._answers[key]

    def _answer(self, layer_name: str, phase: str, role: str) -> LayerFormats:
        if not self._started:
            return self._by_rules_alone(layer_name, phase, role)
        layers = self._layers.get(role)
        if layers is None:
            raise PolicyError(f"role {role!r} has no layer in this run: {nearest(role, self._layers)}")
        if layer_name in layers:
            return self._resolve(layers[layer_name], phase)
        below = {name: self._resolve(layer, phase) for name, layer in layers.items() if matches(layer_name, name)}
        if is_glob(layer_name) or not below:
            raise PolicyError(f"no {role} layer is, or lies below, {layer_name!r}: {nearest_layer(layer_name, layers)}")
        return common_answer(layer_name, phase, below)

    def _by_rules_alone(self, layer_name: str, phase: str, role: str) -> LayerFormats:
        """The layers below a prefix are unknown yet, but those that rules name must agree with it."""
        policy = self.policy
        own = policy.resolve(layer_name, phase, role)
        named = [
            rule.layers
            for rule in policy.rules
            if rule.applies(phase, role) and not is_glob(rule.layers) and rule.layers.startswith(layer_name + ".")
        ]
        if not named:
            return own
        below = {name: policy.resolve(name, phase, role) for name in named}
        if not policy.uncovered([layer_name], phase, role):
            below[layer_name] = own
        return common_answer(layer_name, phase, below)

    def _resolve(self, layer: LayerInfo, phase: str) -> LayerFormats:
        return self.policy.resolve(layer.name, phase, layer.role, is_lm_head=layer.is_lm_head)

    def uncovered(self) -> dict[str, list[str]]:
        """By role, the run's layers about which no rule speaks in any phase; heads are not counted."""
        return {role: uncovered_layers(self.policy, role, layers.values()) for role, layers in self._layers.items()}

    def resolved(self, layers: Sequence[LayerInfo]) -> dict[str, dict[str, dict[str, str]]]:
        """``{role: {phase: {layer: formats}}}`` in words, for config.json."""
        table: dict[str, dict[str, dict[str, str]]] = {}
        for layer in layers:
            for phase in PHASES:
                formats = self._resolve(layer, phase)
                table.setdefault(layer.role, {}).setdefault(phase, {})[layer.name] = in_words(formats, phase)
        return table

    def describe(self) -> Mapping[str, Any]:
        """The policy in full, and what it passes over in this run."""
        plain: dict[str, Any] = {
            "name": self.policy.name,
            "provider": type(self).__name__,
            "source": self.policy.source,
            "policy": self.policy.to_dict(),
        }
        if self._started and self.policy.rules:
            plain["uncovered"] = self.uncovered()
            absent = [role for role in ROLES if role not in self._layers]
            idle = [rule.layers for rule in self.policy.rules if rule.roles and set(rule.roles) <= set(absent)]
            plain["rules_for_absent_roles"] = list(dict.fromkeys(idle))
        return plain


def in_words(formats: LayerFormats, phase: str) -> str:
    """``MXFP4/MXFP8``; in ``gradient`` all three products, unless none is quantised."""
    if phase != "gradient" or not formats.quantised:
        return str(formats.forward)
    return f"forward {formats.forward}, dgrad {formats.dgrad}, wgrad {formats.wgrad}"


def common_answer(prefix: str, phase: str, answers: Mapping[str, LayerFormats]) -> LayerFormats:
    """The one answer that all layers share.

    Raises:
        PolicyError: they differ; lists the first five whose answers are not all alike.
    """
    first = next(iter(answers.values()))
    differing = [name for name, formats in answers.items() if formats != first]
    if not differing:
        return first
    listed = [next(iter(answers)), *differing]
    words = first_five(f"{name} {in_words(answers[name], phase)}" for name in listed)
    raise PolicyError(f"layers below {prefix!r} differ in {phase}: {words}; ask for one of them")


def uncovered_layers(policy: PrecisionPolicy, role: str, layers: Iterable[LayerInfo]) -> list[str]:
    """Names of the layers about which no rule speaks in any phase, output heads left out."""
    return policy.uncovered((layer.name for layer in layers if not layer.is_lm_head), role=role)


def check_heads(policy: PrecisionPolicy, layers: Iterable[LayerInfo]) -> None:
    """Raise PolicyError when a rule names an output head and is not limited to rollout."""
    heads = {layer.name for layer in layers if layer.is_lm_head}
    for rule in policy.rules:
        if rule.layers in heads and rule.phases != ("rollout",):
            raise PolicyError(f"policy {policy.name}: {rule.layers!r} is the output head: {WHY_LM_HEAD}")


def check_patterns(policy: PrecisionPolicy, by_role: Mapping[str, Mapping[str, LayerInfo]]) -> None:
    """Raise PolicyError, naming the nearest layer, when a rule or exclude pattern matches no layer."""
    everywhere = list(dict.fromkeys(name for layers in by_role.values() for name in layers))
    unmatched = {pattern: f"exclude {pattern!r}" for pattern in _unmatched(policy.exclude, everywhere)}
    for roles, rules in _rules_by_roles(policy, by_role).items():
        names = [name for role in roles for name in by_role[role]]
        for pattern in _unmatched(dict.fromkeys(rule.layers for rule in rules), names):
            unmatched.setdefault(pattern, repr(pattern))
    if not unmatched:
        return
    message = (
        f"policy {policy.name} ({policy.source or 'from code'}) names {first_five(unmatched.values())}, "
        f"which match{'es' if len(unmatched) == 1 else ''} no adopted layer: "
        f"{nearest_layer(next(iter(unmatched)), everywhere)}"
    )
    unnamed = [name for role, layers in by_role.items() for name in uncovered_layers(policy, role, layers.values())]
    if policy.rules and unnamed:
        message += f"; layers that no rule names: {first_five(dict.fromkeys(unnamed))}"
    if any(pattern in unmatched for pattern in policy.exclude):
        message += "; what the run leaves out by itself (heads, routers, LoRA) needs no exclude"
    raise PolicyError(message)


def _rules_by_roles(
    policy: PrecisionPolicy, by_role: Mapping[str, Mapping[str, LayerInfo]]
) -> dict[tuple[str, ...], list[Rule]]:
    """Rules grouped by those of their roles that the run has; rules with none of them are left out."""
    grouped: dict[tuple[str, ...], list[Rule]] = {}
    for rule in policy.rules:
        present = tuple(role for role in by_role if not rule.roles or role in rule.roles)
        if present:
            grouped.setdefault(present, []).append(rule)
    return grouped


def _unmatched(patterns: Iterable[str], names: Sequence[str]) -> list[str]:
    covered = prefixes(names)
    return [
        pattern
        for pattern in patterns
        if not (any(matches(pattern, name) for name in names) if is_glob(pattern) else pattern in covered)
    ]
