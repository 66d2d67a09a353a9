"""Rewards that are rules over text: ``(prompts, completions) -> one float per completion``.

The signature is that of TRL's reward functions, so the same rule serves GRPO as it is and PPO through
:class:`mx_trl.rewards.module.RuleReward`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from typing import Any

from mx_plugin.errors import nearest

from ..errors import StageError
from .lexicon import NEGATIVE, POSITIVE

Rule = Callable[..., list[float]]
"""``rule(prompts=[...], completions=[...], **ignored) -> [float, ...]``, completions as text or message lists."""

_WORD = re.compile(r"[a-z']+")
_POSITIVE, _NEGATIVE = frozenset(POSITIVE), frozenset(NEGATIVE)


def completion_text(completion: str | Sequence[dict[str, Any]]) -> str:
    """Text of a completion; of a message list, the contents joined by a space."""
    if isinstance(completion, str):
        return completion
    return " ".join(str(message["content"]) for message in completion)


def words_of(completion: str | Sequence[dict[str, Any]]) -> list[str]:
    """Lower-case words (letters and apostrophes) of a completion."""
    return _WORD.findall(completion_text(completion).lower())


def _share(count: int, words: list[str]) -> float:
    return count / len(words) if words else 0.0


def positive_words(completions: Sequence[Any], **_: Any) -> list[float]:
    """Share of the completion's words that are in ``lexicon.POSITIVE``, 0 to 1; no words give 0."""
    texts = [words_of(c) for c in completions]
    return [_share(sum(word in _POSITIVE for word in words), words) for words in texts]


def sentiment(completions: Sequence[Any], **_: Any) -> list[float]:
    """(positive - negative) / words, -1 to 1; no words give 0."""
    texts = [words_of(c) for c in completions]
    return [_share(sum((w in _POSITIVE) - (w in _NEGATIVE) for w in words), words) for words in texts]


def plain_words(completions: Sequence[Any], **_: Any) -> list[float]:
    """Share of words of at most four letters, 0 to 1: plain language. Dense, so that it moves within few steps."""
    texts = [words_of(c) for c in completions]
    return [_share(sum(len(word) <= 4 for word in words), words) for words in texts]


def length(target: int) -> Rule:
    """Rule ``-|words - target| / target``: 0 at the target, -1 for an empty completion.

    Raises:
        StageError: ``target`` below 1.
    """
    if target < 1:
        raise StageError(f"reward length:{target}: the target must be at least 1 word")

    def length_rule(completions: Sequence[Any], **_: Any) -> list[float]:
        return [-abs(len(words_of(c)) - target) / target for c in completions]

    length_rule.__name__ = f"length_{target}"
    return length_rule


_NAMED: dict[str, Rule] = {"positive_words": positive_words, "sentiment": sentiment, "plain_words": plain_words}


def find_rule(name: str) -> Rule:
    """Rule ``positive_words``, ``sentiment``, ``plain_words``, ``length:WORDS`` or ``package.module:function``.

    Raises:
        StageError: no such rule, module or function, or a length that is no number.
    """
    if name in _NAMED:
        return _NAMED[name]
    head, colon, tail = name.partition(":")
    if head == "length":
        if not tail.isdigit():
            raise StageError(f"reward {name!r}: write the target in words, e.g. length:24")
        return length(int(tail))
    if not colon:
        known = ["embedded", "model", *_NAMED, "length:WORDS", "package.module:function"]
        raise StageError(f"unknown reward {name!r}: {nearest(name, known)}")
    return _imported(name, head, tail)


def _imported(name: str, module: str, function: str) -> Rule:
    try:
        rule = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise StageError(f"reward {name!r} cannot be imported: {error}; give package.module:function") from error
    if not callable(rule):
        raise StageError(f"reward {name!r} is a {type(rule).__name__}, not a function")
    return rule  # type: ignore[no-any-return]
