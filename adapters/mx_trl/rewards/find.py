"""From the words of ``--reward`` to a rule."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable

from mx_plugin.errors import nearest

from ..errors import StageError
from .composite import Composite
from .rules import Rule, ending, length, length_penalty, plain_words, positive_words, rule_name, sentence_end, sentiment
from .verifiable import RightNumber

_NAMED: dict[str, Rule] = {
    "positive_words": positive_words,
    "sentiment": sentiment,
    "plain_words": plain_words,
    "sentence_end": sentence_end,
    "gsm8k": RightNumber(),
}
_MADE: dict[str, tuple[str, Callable[[str], Rule]]] = {
    "length": ("length:WORDS", lambda words: length(_whole(words, "length:24"))),
    "length_penalty": ("length_penalty:WORDS", lambda words: length_penalty(_whole(words, "length_penalty:40"))),
    "ending": ("ending:TEXT|TEXT", lambda texts: ending(texts.split("|"))),
    "gsm8k": ("gsm8k:COLUMN", RightNumber),
}
_PLUS = re.compile(r"\s\+\s|(?<=\w)\+(?=[\w.])")
_TERM = re.compile(r"\s*(?:([-+]?\d+(?:\.\d*)?|[-+]?\.\d+)\s*\*\s*)?(.*\S)\s*", re.DOTALL)


def rule_words() -> list[str]:
    """How every rule is written, for messages and tables."""
    return [*_NAMED, *(words for words, _ in _MADE.values()), "package.module:function"]


def find_rule(name: str) -> Rule:
    """A rule by its words, or a weighted sum of several: ``sentiment + 0.5*length:24``.

    Single rules: ``positive_words``, ``sentiment``, ``plain_words``, ``sentence_end``, ``length:WORDS``,
    ``length_penalty:WORDS``, ``ending:TEXT|TEXT``, ``gsm8k`` or ``gsm8k:COLUMN``, ``package.module:function``.

    Raises:
        StageError: no such rule, module or function; a length that is no number; a weight of 0.
    """
    terms = [_term(part, name) for part in _PLUS.split(name)]
    if len(terms) == 1 and terms[0][0] == 1.0:
        return terms[0][1]
    return Composite(terms)


def shared_rules(first: str, second: str | None) -> list[str]:
    """Names of the rules that two rewards have in common, as sums or by themselves.

    Models have none, nor has what is no reward here, such as a function that cannot be imported.
    """
    if second is None or {first, second} & {"model", "embedded"}:
        return []
    try:
        return sorted(_names(find_rule(first)) & _names(find_rule(second)))
    except StageError:
        return [first] if first == second else []


def _names(rule: Rule) -> set[str]:
    return {rule_name(part) for _, part in rule.terms} if isinstance(rule, Composite) else {rule_name(rule)}


def _term(text: str, whole: str) -> tuple[float, Rule]:
    found = _TERM.fullmatch(text)
    if found is None:
        raise StageError(f"reward {whole!r} has an empty term: write e.g. 'sentiment + 0.5*length:24'")
    weight = float(found[1]) if found[1] else 1.0
    if weight == 0.0:
        raise StageError(f"reward {whole!r}: the weight of {found[2]!r} is 0; leave the term out")
    if len(text) < len(whole) and found[2] in ("model", "embedded"):
        raise StageError(f"reward {whole!r}: a sum is of rules; {found[2]!r} stands alone")
    return weight, _single(found[2])


def _single(name: str) -> Rule:
    if name in _NAMED:
        return _NAMED[name]
    head, colon, tail = name.partition(":")
    if head in _MADE:
        words, make = _MADE[head]
        if not tail:
            raise StageError(f"reward {name!r}: write {words}")
        return make(tail)
    if not colon:
        raise StageError(f"unknown reward {name!r}: {nearest(name, ['embedded', 'model', *rule_words()])}")
    if head in _NAMED:
        raise StageError(f"reward {name!r}: {head} takes nothing behind a colon; a weight stands in front, 0.5*{head}")
    return _imported(name, head, tail)


def _whole(text: str, example: str) -> int:
    if not text.isdigit():
        raise StageError(f"reward {example.partition(':')[0]}:{text}: write the target in words, e.g. {example}")
    return int(text)


def _imported(name: str, module: str, function: str) -> Rule:
    try:
        rule = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise StageError(f"reward {name!r} cannot be imported: {error}; give package.module:function") from error
    if not callable(rule):
        raise StageError(f"reward {name!r} is a {type(rule).__name__}, not a function")
    return rule  # type: ignore[no-any-return]
