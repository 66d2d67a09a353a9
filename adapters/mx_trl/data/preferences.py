"""Rows for DPO and the reward model: a prompt, a better and a worse answer; or an answer and its score."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import StageError
from .completions import Convert, Example
from .hh import hh_answers, hh_turns, is_dialogue, shared_length
from .values import Text, column, messages, of_one_kind, shown, text_or_messages

_PROMPTS = ("prompt", "question", "instruction")
_ANSWERS = ("completion", "response", "answer", "text", "messages")


def _numeric(row: Mapping[str, Any], name: str) -> float:
    value = column(row, name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"column {name!r} holds {shown(value)}, not a finite number")
    return float(value)


# ---------------------------------------------------------------------------- pairs


@dataclass(frozen=True)
class PairForm:
    """``chosen`` and ``rejected``, with a column ``prompt`` or with the prompt as their common beginning.

    ``form``: ``auto``, or ``hh_chat``: dialogues of hh-rlhf become messages. A column ``margin`` is kept. A text
    ``prompt`` beside dialogues that repeat it is left out.

    Raises:
        StageError: an unknown form.
    """

    form: str = "auto"

    def __post_init__(self) -> None:
        if self.form not in ("auto", "hh_chat"):
            raise StageError(f"form={self.form!r} is not a choice for pairs: auto, hh_chat")

    def converter(self, row: Mapping[str, Any]) -> Convert:
        """The function from a row to ``{"prompt", "chosen", "rejected"}`` (and ``margin``).

        Raises:
            ValueError: in the function, for a row that does not fit.
        """
        return self._pair

    def _pair(self, row: Mapping[str, Any]) -> Example:
        chosen, rejected = of_one_kind(row, "chosen", "rejected")
        prompt_column = next((name for name in _PROMPTS if row.get(name) is not None), None)
        if prompt_column is None or _repeats(chosen, row[prompt_column]):
            prompt, chosen, rejected = self._split(chosen, rejected)
        else:
            prompt, _ = of_one_kind(row, prompt_column, "chosen")
        if chosen == rejected:
            raise ValueError("chosen and rejected are the same")
        for name, answer in (("chosen", chosen), ("rejected", rejected)):
            if not answer or (isinstance(answer, str) and not answer.strip()):
                raise ValueError(f"{name} holds no answer beside the prompt")
        margin = {"margin": _numeric(row, "margin")} if row.get("margin") is not None else {}
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **margin}

    def _split(self, chosen: Text, rejected: Text) -> tuple[Text, Text, Text]:
        if isinstance(chosen, list):
            shared = shared_length(chosen, rejected)
            while shared and chosen[shared - 1]["role"] == "assistant":
                shared -= 1
            if not shared:
                raise ValueError("chosen and rejected share no first message that could be the prompt")
            return chosen[:shared], chosen[shared:], rejected[shared:]
        assert isinstance(rejected, str)
        if is_dialogue(chosen) and is_dialogue(rejected):
            prompt, better, worse = hh_answers(chosen, rejected)
            return _as_messages(prompt, better, worse) if self.form == "hh_chat" else (prompt, better, worse)
        if self.form == "hh_chat":
            raise ValueError("chosen and rejected are no dialogues of hh-rlhf")
        # The space before a word belongs to its token, so the prompt ends before it.
        shared = max(chosen[: shared_length(chosen, rejected)].rfind(space) for space in (" ", "\n"))
        if shared < 1:
            raise ValueError("chosen and rejected have no common beginning, and there is no column 'prompt'")
        return chosen[:shared], chosen[shared:], rejected[shared:]


def _repeats(chosen: Text, prompt: Any) -> bool:
    """Whether whole dialogues stand beside a prompt that is one of their messages (UltraFeedback's form)."""
    return isinstance(chosen, list) and isinstance(prompt, str) and any(m["content"] == prompt for m in chosen[:-1])


def _as_messages(prompt: str, chosen: str, rejected: str) -> tuple[Text, Text, Text]:
    turns = hh_turns(prompt)
    if not turns or turns[-1]["role"] != "user":
        raise ValueError("no human speaks before the answers")
    return turns, _answer(chosen), _answer(rejected)


def _answer(rest: str) -> Text:
    """The turns from an answer on, which follows an opening of the assistant."""
    return hh_turns(f"\n\nHuman:\n\nAssistant:{rest}")


# ---------------------------------------------------------------------------- scores


@dataclass(frozen=True)
class ScoreForm:
    """An answer and its score, with or without a prompt.

    The answer is the first of the columns completion, response, answer, text, messages.
    """

    score_column: str = "score"

    def converter(self, row: Mapping[str, Any]) -> Convert:
        """The function from a row to ``{"text" | "messages", "score"}``.

        Raises:
            ValueError: no column of an answer, or of the score. The function raises it too.
        """
        column(row, self.score_column)
        answer = next((name for name in _ANSWERS if name in row), None)
        if answer is None:
            raise ValueError(f"no column of an answer ({', '.join(_ANSWERS)}); columns: {', '.join(row)}")
        prompt = next((name for name in _PROMPTS if row.get(name) is not None), None)
        return lambda row: {**self._scored(row, prompt, answer), "score": _numeric(row, self.score_column)}

    def _scored(self, row: Mapping[str, Any], prompt: str | None, answer: str) -> Example:
        if prompt is None:
            if answer == "messages":
                return {"messages": messages(row, answer)}
            found = text_or_messages(row, answer)
            return {"messages" if isinstance(found, list) else "text": found}
        first, last = of_one_kind(row, prompt, answer)
        if isinstance(first, list) and isinstance(last, list):
            return {"messages": [*first, *last]}
        return {"text": f"{first}{last}"}


def is_scored(row: Mapping[str, Any], score_column: str) -> bool:
    """Whether a row holds a score rather than a pair."""
    return score_column in row and not ("chosen" in row and "rejected" in row)
