"""Two short lists of plain English words, written by hand for this package: the rules' and the demo's sentiment.

Adjectives and adverbs of unmistakable sign only; no nouns that name a person or a group. They are far
from complete: a rule over them is a reward that can be checked by eye, not a sentiment classifier.
"""

from __future__ import annotations

POSITIVE: tuple[str, ...] = (
    "amazing", "beautiful", "best", "bright", "calm", "careful", "charming", "cheerful", "clean", "clever",
    "comfortable", "delicious", "delightful", "easy", "elegant", "excellent", "exciting", "fair", "fine", "fresh",
    "friendly", "fun", "generous", "gentle", "glad", "good", "graceful", "grateful", "great", "happy",
    "healthy", "helpful", "honest", "joyful", "kind", "lovely", "lucky", "nice", "peaceful", "perfect",
    "pleasant", "pretty", "proud", "safe", "smart", "soft", "splendid", "strong", "sunny", "sweet",
    "tasty", "tender", "thoughtful", "useful", "warm", "wise", "wonderful",
)  # fmt: skip
"""Words that count +1."""

NEGATIVE: tuple[str, ...] = (
    "afraid", "angry", "annoying", "awful", "bad", "bitter", "boring", "broken", "cruel", "damaged",
    "dangerous", "dirty", "dreadful", "dull", "evil", "false", "fearful", "foul", "gloomy", "greedy",
    "grim", "harmful", "harsh", "hateful", "horrible", "hurt", "lonely", "mean", "miserable", "nasty",
    "painful", "poor", "rotten", "rude", "sad", "scary", "selfish", "sick", "sour", "terrible",
    "ugly", "unfair", "unhappy", "unpleasant", "useless", "violent", "weak", "wicked", "worse", "worst",
    "wrong",
)  # fmt: skip
"""Words that count -1."""
