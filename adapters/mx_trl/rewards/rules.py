"""Rewards that are rules over text: ``(prompts, completions) -> one float per completion``.

The signature is that of TRL's reward functions, so the same rule serves GRPO as it is and PPO through
:class:`mx_trl.rewards.module.RuleReward`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import StageError
from .lexicon import NEGATIVE, POSITIVE

Rule = Callable[..., list[float]]
"""``rule(prompts=[...], completions=[...], **ignored) -> [float, ...]``, completions as text or message lists."""

_WORD = re.compile(r"[a-z']+")
_CLOSING = ".!?,;:\"')]}\u201d\u2019\u2026 "
_SENTENCE_END = re.compile(r"""[.!?]["')\u201d\u2019]*\s*$""")
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


def length_penalty(longest: int) -> Rule:
    """Rule ``-max(0, words - longest) / longest``: 0 up to ``longest`` words, -1 at twice as many.

    Raises:
        StageError: ``longest`` below 1.
    """
    if longest < 1:
        raise StageError(f"reward length_penalty:{longest}: the longest must be at least 1 word")

    def length_penalty_rule(completions: Sequence[Any], **_: Any) -> list[float]:
        return [-max(0, len(words_of(c)) - longest) / longest for c in completions]

    length_penalty_rule.__name__ = f"length_penalty_{longest}"
    return length_penalty_rule


def sentence_end(completions: Sequence[Any], **_: Any) -> list[float]:
    """1 for a completion that ends with a sentence's end (``.``, ``!``, ``?``, then perhaps quotes), else 0."""
    return [float(_SENTENCE_END.search(completion_text(c)) is not None) for c in completions]


def ending(texts: Sequence[str]) -> Rule:
    """Rule: 1 for a completion that ends with one of the preferred texts, else 0.

    Case and white space do not count, nor does punctuation after a text that has none of its own at its end.

    Raises:
        StageError: no text, or an empty one.
    """
    wanted = [_folded(text) for text in texts]
    if not wanted or not all(wanted):
        raise StageError(f"reward ending:{'|'.join(texts)}: give preferred endings, e.g. ending:the end|ever after")

    def ending_rule(completions: Sequence[Any], **_: Any) -> list[float]:
        found = [_folded(completion_text(c)) for c in completions]
        return [float(any(_ends_with(text, end) for end in wanted)) for text in found]

    ending_rule.__name__ = f"ending_{'_'.join(word for text in wanted for word in _WORD.findall(text))}"
    return ending_rule


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()


def _ends_with(text: str, end: str) -> bool:
    bare = text.rstrip(_CLOSING)
    # A word's beginning is one, too: "friend" does not end with "end".
    return any(t.endswith(end) and not (t[: -len(end)][-1:].isalnum() and end[0].isalnum()) for t in (text, bare))


# ---------------------------------------------------------------------------- about a rule


def rule_name(rule: Rule) -> str:
    """What a rule is called in logs and messages."""
    return getattr(rule, "__name__", type(rule).__name__)


def columns_of(rule: Rule) -> tuple[str, ...]:
    """Columns of the data set that the rule needs beside prompts and completions; most need none."""
    return tuple(getattr(rule, "columns", ()))
