"""A precision policy as plain data and as YAML, in and out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from reprlib import repr as short_repr
from typing import Any

import yaml

from ..errors import PolicyError
from .entry import PRODUCTS, Entry, GradientEntry, ProductEntry, canonical_entry, check_word
from .formats import PHASES, ROLES
from .place import Place, key_lines
from .policy import POLICY_VERSION, WHY_LM_HEAD, PhaseEntries, PrecisionPolicy, Rule, check_version

_KEYS = (
    *("version", "name", "description", "activations", "scale_rule"),
    *("needs_matrix", "defaults", "roles", "lm_head", "rules", "exclude"),
)
_RULE_KEYS = ("layers", "phases", "roles", "format")
_PRODUCT_KEYS = ("format", "rounding", "scale_rule", "hadamard")


# ---------------------------------------------------------------------------- reading


def read_policy(path: Path) -> PrecisionPolicy:
    """Read a YAML file; see ``PrecisionPolicy.from_yaml``."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PolicyError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise PolicyError(f"cannot read policy {path}: {error.strerror or error}; check the path") from error
    return policy_from_text(text, str(path))


def policy_from_text(text: str, source: str) -> PrecisionPolicy:
    """Read YAML text that came from ``source``."""
    try:
        lines = key_lines(text, source)
        data = yaml.safe_load(text)
    except PolicyError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = source if mark is None else f"{source}:{mark.line + 1}"
        raise PolicyError(f"{where}: not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise PolicyError(f"{source}: not valid YAML: {error}") from None
    return policy_from_plain(data, source, lines)


def policy_from_plain(
    data: object, source: str, lines: Mapping[tuple[str | int, ...], int] | None = None
) -> PrecisionPolicy:
    """Build from plain data; see ``PrecisionPolicy.from_dict``."""
    top = Place(source, lines or {})
    # A newer version may have keys that look unknown here: say that it is newer first.
    if isinstance(data, Mapping) and "version" in data:
        with top.at("version").blamed():
            check_version(data["version"])
    values = top.mapping(data, _KEYS)
    if "name" not in values:
        raise top.error("the policy has no name; add e.g. name: mine")
    plain = {key: values[key] for key in ("name", "description", "activations", "scale_rule") if key in values}
    for key, value in plain.items():
        with top.at(key).blamed():
            PrecisionPolicy(**{"name": "-", key: value})
    return PrecisionPolicy(
        **plain,
        needs_matrix=_flag(values.get("needs_matrix", False), top.at("needs_matrix")),
        defaults=_phase_entries(values.get("defaults", {}), top.at("defaults")),
        roles=_roles(values.get("roles", {}), top.at("roles")),
        lm_head=_lm_head(values.get("lm_head"), top.at("lm_head")),
        rules=_rules(values.get("rules", []), top.at("rules")),
        exclude=_exclude(values.get("exclude", []), top.at("exclude")),
        source=source,
    )


def _flag(value: object, place: Place) -> bool:
    if not isinstance(value, bool):
        raise place.error(f"expected true or false, found {short_repr(value)}")
    return value


def _phase_entries(value: object, place: Place) -> PhaseEntries:
    entries: dict[str, Entry] = {}
    for phase, entry in place.mapping(value, PHASES).items():
        entries[phase] = _entry(entry, place.at(phase))
        with place.at(phase).blamed():
            PhaseEntries(**{phase: entries[phase]})
    return PhaseEntries(**entries)


def _roles(value: object, place: Place) -> dict[str, PhaseEntries]:
    return {role: _phase_entries(entries, place.at(role)) for role, entries in place.mapping(value, ROLES).items()}


def _lm_head(value: object, place: Place) -> str | None:
    if value is None:
        return None
    if isinstance(value, Mapping):
        for phase in ("reward", "gradient"):
            if phase in value:
                raise place.at(phase).error(f"lm_head has no format here: {WHY_LM_HEAD}")
        value = place.mapping(value, ("rollout",)).get("rollout")
        place = place.at("rollout")
    with place.blamed():
        return PrecisionPolicy(name="-", lm_head=value).lm_head  # type: ignore[arg-type]


def _rules(value: object, place: Place) -> tuple[Rule, ...]:
    if not isinstance(value, list | tuple):
        raise place.error(f"expected a list of rules, found {short_repr(value)}")
    return tuple(_rule(item, place.at(index)) for index, item in enumerate(value))


def _rule(value: object, place: Place) -> Rule:
    values = place.mapping(value, _RULE_KEYS)
    for key in ("layers", "format"):
        if key not in values:
            raise place.error(f"the rule has no {key}; a rule needs layers and format")
    entry = _entry(values["format"], place.at("format"))
    phases = _words("phase", values.get("phases", []), PHASES, place.at("phases"))
    roles = _words("role", values.get("roles", []), ROLES, place.at("roles"))
    with place.blamed():
        return Rule(values["layers"], entry, phases, roles)


def _words(kind: str, value: object, valid: tuple[str, ...], place: Place) -> tuple[str, ...]:
    words = place.words(value)
    with place.blamed():
        for word in words:
            check_word(kind, word, valid)
    return words


def _exclude(value: object, place: Place) -> tuple[str, ...]:
    patterns = place.words(value)
    with place.blamed():
        return PrecisionPolicy(name="-", exclude=patterns).exclude


def _entry(value: object, place: Place) -> Entry:
    """A name, a pair, or the three products."""
    if not isinstance(value, Mapping):
        with place.blamed():
            return canonical_entry(value)
    products = place.mapping(value, PRODUCTS)
    for which in PRODUCTS:
        if which not in products:
            raise place.error(f"{which} is missing; name all of {', '.join(PRODUCTS)} (FP16 leaves one alone)")
    return GradientEntry(**{which: _product(products[which], place.at(which)) for which in PRODUCTS})


def _product(value: object, place: Place) -> ProductEntry:
    values: dict[str, Any] = {"format": value} if isinstance(value, str) else place.mapping(value, _PRODUCT_KEYS)
    if "format" not in values:
        raise place.error("the product has no format; write e.g. format: MXFP4/MXFP8")
    for key, single in values.items():
        with place.at(key).blamed() if isinstance(value, Mapping) else place.blamed():
            ProductEntry(**({"format": "MXFP8/MXFP8"} | {key: single}))
    with place.blamed():
        return ProductEntry(**values)


# ---------------------------------------------------------------------------- writing


def policy_to_yaml(policy: PrecisionPolicy) -> str:
    """YAML text of a policy."""
    text: str = yaml.safe_dump(policy_to_plain(policy), sort_keys=False)
    return text


def policy_to_plain(policy: PrecisionPolicy) -> dict[str, Any]:
    """Plain data of a policy; what is empty is left out."""
    plain: dict[str, Any] = {"version": POLICY_VERSION, "name": policy.name, "description": policy.description}
    plain |= {"activations": policy.activations, "scale_rule": policy.scale_rule}
    optional = {
        "needs_matrix": policy.needs_matrix,
        "defaults": _plain_phases(policy.defaults),
        "roles": {role: _plain_phases(entries) for role, entries in policy.roles.items()},
        "lm_head": {"rollout": policy.lm_head} if policy.lm_head is not None else None,
        "rules": [_plain_rule(rule) for rule in policy.rules],
        "exclude": list(policy.exclude),
    }
    return plain | {key: value for key, value in optional.items() if value}


def _plain_phases(entries: PhaseEntries) -> dict[str, Any]:
    return {phase: _plain_entry(entry) for phase in PHASES if (entry := entries.of(phase)) is not None}


def _plain_rule(rule: Rule) -> dict[str, Any]:
    plain: dict[str, Any] = {"layers": rule.layers}
    plain |= {"phases": list(rule.phases)} if rule.phases else {}
    plain |= {"roles": list(rule.roles)} if rule.roles else {}
    return plain | {"format": _plain_entry(rule.format)}


def _plain_entry(entry: Entry) -> Any:
    if isinstance(entry, str):
        return entry
    return {which: _plain_product(getattr(entry, which)) for which in PRODUCTS}


def _plain_product(product: ProductEntry) -> Any:
    plain: dict[str, Any] = {"format": product.format}
    plain |= {"rounding": product.rounding} if product.rounding is not None else {}
    plain |= {"scale_rule": product.scale_rule} if product.scale_rule is not None else {}
    plain |= {"hadamard": True} if product.hadamard else {}
    return product.format if len(plain) == 1 else plain
