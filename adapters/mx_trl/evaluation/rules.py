"""Judges that are verifiable rules: a right answer, plain language, or any rule that the run was not trained on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from ..errors import StageError
from ..prompts import Prompt, read_rows
from ..rewards import columns_of, find_rule, last_number

_SENTENCE = re.compile(r"[.!?]+")
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)*", re.IGNORECASE)
_VOWELS = re.compile(r"[aeiouy]+")


# ---------------------------------------------------------------------------- right answers


class Gsm8kJudge:
    """1 for the right number, else 0: problems of GSM8K (Cobbe et al., 2021), whose solutions end in ``#### number``.

    A completion's answer is the last number after its last ``####``; without that mark, its last number. Prompts may
    be the questions themselves or texts and messages that hold one.

    Args:
        dataset: rows with ``question`` and ``answer``; the evaluation offers its own.
    """

    def __init__(self, dataset: str, split: str = "train") -> None:
        self.answers: dict[str, Decimal] = {}
        for number, row in enumerate(read_rows(dataset, split), start=1):
            if "question" not in row or "answer" not in row:
                raise StageError(f"{dataset}, row {number}: judge gsm8k needs the columns question and answer")
            right = last_number(str(row["answer"]))
            if right is None:
                raise StageError(f"{dataset}, row {number}: no number in the answer {row['answer']!r:.60}")
            self.answers[str(row["question"]).strip()] = right

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        pairs = zip(prompts, completions, strict=True)
        return [float(last_number(completion) == self._right(prompt)) for prompt, completion in pairs]

    def _right(self, prompt: Prompt) -> Decimal:
        text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        if text.strip() in self.answers:
            return self.answers[text.strip()]
        held = [question for question in self.answers if question in text]
        if not held:
            raise StageError(f"judge gsm8k: no question of its data set is in the prompt {text!r:.80}")
        return self.answers[max(held, key=text.rindex)]

    def describe(self) -> dict[str, Any]:
        return {"judge": "gsm8k", "problems": len(self.answers), "unit": "share of right answers"}


# ---------------------------------------------------------------------------- plain language


class ReadingEaseJudge:
    """Flesch's reading ease, 206.835 - 1.015 words/sentences - 84.6 syllables/words; about 121 is the easiest.

    R. Flesch, A new readability yardstick, Journal of Applied Psychology 32(3), 1948. Syllables are counted as groups
    of vowels without a silent final e. A completion without words scores 0. It judges runs that were trained on a
    cheaper stand-in for plain language, such as ``plain_words``.
    """

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        return [reading_ease(completion) for completion in completions]

    def describe(self) -> dict[str, Any]:
        return {"judge": "reading_ease", "unit": "Flesch reading ease"}


def reading_ease(text: str) -> float:
    """Flesch's reading ease of English text; 0 without words."""
    words = _WORD.findall(text)
    if not words:
        return 0.0
    sentences = max(1, sum(bool(_WORD.search(part)) for part in _SENTENCE.split(text)))
    return 206.835 - 1.015 * len(words) / sentences - 84.6 * sum(map(syllables, words)) / len(words)


def syllables(word: str) -> int:
    """Groups of vowels; a final e counts only after l (``table``), or when there is no other."""
    lower = word.lower()
    count = len(_VOWELS.findall(lower))
    if lower.endswith("e") and not lower.endswith(("le", "ee", "ye")) and count > 1:
        count -= 1
    return max(count, 1)


# ---------------------------------------------------------------------------- any rule


class RuleJudge:
    """A reward rule by name (``sentiment``, ``length:24``, ``module:function``) that the run was *not* trained on."""

    def __init__(self, name: str) -> None:
        self.name, self.rule = name, find_rule(name)
        self.trained_on = name
        if columns_of(self.rule):
            raise StageError(f"judge rule: {name} needs the data set's answers; use the judge gsm8k:dataset=DATASET")

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        return list(self.rule(prompts=list(prompts), completions=list(completions)))

    def describe(self) -> dict[str, Any]:
        return {"judge": "rule", "rule": self.name}
