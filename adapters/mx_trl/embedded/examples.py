"""The demo's examples to learn from: answers to imitate, pairs of a better and a worse one, answers with scores."""

from __future__ import annotations

import random
from typing import Any

from ..rewards.lexicon import NEGATIVE, POSITIVE
from .language import answer, prompts

Example = dict[str, Any]

_PAIRS_PER_PROMPT = 2
_DRAWS = 6


def dialogues(seed: int) -> list[Example]:
    """To every question the one of several answers with the most praise, as prompt and completion in messages."""
    rng = random.Random(seed)
    found = []
    for ask in _shuffled(rng):
        best = max((_one_answer(ask, rng) for _ in range(_DRAWS)), key=praise)
        found.append({"prompt": _user(ask), "completion": _assistant(best)})
    return found


def pairs(seed: int) -> list[Example]:
    """For every question answers of which ``chosen`` has more praise a word than ``rejected``."""
    rng = random.Random(seed)
    found = []
    for _ in range(_PAIRS_PER_PROMPT):
        for ask in _shuffled(rng):
            drawn = sorted((_one_answer(ask, rng) for _ in range(_DRAWS)), key=praise)
            if praise(drawn[0]) < praise(drawn[-1]):
                better, worse = _assistant(drawn[-1]), _assistant(drawn[0])
                found.append({"prompt": _user(ask), "chosen": better, "rejected": worse})
    return found


def scores(seed: int) -> list[Example]:
    """One answer to every question, with its praise a word as ``score``."""
    rng = random.Random(seed)
    found = []
    for ask in _shuffled(rng):
        text = _one_answer(ask, rng)
        found.append({"prompt": _user(ask), "completion": _assistant(text), "score": praise(text)})
    return found


def praise(text: str) -> float:
    """(positive words - negative words) / words."""
    words = text.split()
    return (sum(word in POSITIVE for word in words) - sum(word in NEGATIVE for word in words)) / len(words)


def _shuffled(rng: random.Random) -> list[str]:
    asked = prompts()
    rng.shuffle(asked)
    return asked


def _one_answer(ask: str, rng: random.Random) -> str:
    return answer(ask.split()[-1], rng)


def _user(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


def _assistant(content: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": content}]
