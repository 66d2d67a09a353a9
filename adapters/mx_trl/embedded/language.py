"""The demo's toy language: what a user asks, and sentences of describing words that answer it."""

from __future__ import annotations

import random

from ..rewards.lexicon import NEGATIVE, POSITIVE

NEUTRAL: tuple[str, ...] = (
    "big", "small", "old", "new", "long", "short", "round", "square", "red", "green",
    "blue", "grey", "brown", "wooden", "empty", "full", "open", "closed", "near", "far",
    "high", "low", "wide", "narrow", "heavy", "light", "dry", "wet", "common", "local",
)  # fmt: skip
NOUNS: tuple[str, ...] = (
    "garden", "house", "street", "river", "bridge", "window", "table", "market", "school", "kitchen",
    "morning", "evening", "winter", "summer", "story", "song", "letter", "picture", "meal", "soup",
    "train", "boat", "road", "forest", "field", "beach", "island", "village", "city", "tower",
    "lamp", "chair", "book", "coat", "shoe", "clock", "door", "wall", "roof", "stone",
)  # fmt: skip
_ASK = ("describe", "tell me about", "what do you think of", "how was", "say something about")
_VERBS = ("is", "was", "looks", "seems", "feels")
_JOINS = ("and", "but", "so")


def prompts() -> list[str]:
    """Every question about every noun, in a fixed order."""
    return [f"{ask} the {noun}" for noun in NOUNS for ask in _ASK]


def answer(noun: str, rng: random.Random) -> str:
    """A sentence or two about the noun; half its describing words are neutral, a quarter each positive and negative."""
    clauses = [_clause(noun, rng) for _ in range(rng.choice((1, 2, 2, 3)))]
    text = clauses[0]
    for clause in clauses[1:]:
        text += f" {rng.choice(_JOINS)} {clause}"
    return f"{text} ."


def _clause(noun: str, rng: random.Random) -> str:
    words = [rng.choice(rng.choice((POSITIVE, NEGATIVE, NEUTRAL, NEUTRAL))) for _ in range(rng.choice((1, 1, 2)))]
    return f"the {noun} {rng.choice(_VERBS)} {' and '.join(words)}"


def vocabulary() -> list[str]:
    """Every word of the language, sorted."""
    phrases = [*_ASK, *_VERBS, *_JOINS, *NOUNS, *NEUTRAL, *POSITIVE, *NEGATIVE, "the", "."]
    return sorted({word for phrase in phrases for word in phrase.split()})
