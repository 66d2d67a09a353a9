"""Rows for SFT: whole texts, prompts with completions, or dialogues."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import StageError
from .hh import hh_prompt, hh_turns
from .values import Text, messages, of_one_kind, text

Example = dict[str, Any]
Convert = Callable[[Mapping[str, Any]], Example]

FORMS = ("auto", "text", "pair", "messages", "hh", "hh_chat")
PAIRS = (("prompt", "completion"), ("document", "target"), ("question", "answer"))


@dataclass(frozen=True)
class CompletionForm:
    """Which columns make an example, and how.

    ``form``: ``text``, ``messages`` (columns of that name), ``pair`` (``prompt_column``, ``completion_column``),
    ``hh`` and ``hh_chat`` (column ``chosen``, a dialogue of hh-rlhf), or ``auto``: what the columns' names tell.
    ``separator`` and ``as_chat`` are for pairs of plain text; see :class:`mx_trl.stages.arguments.SFTScriptArguments`.

    Raises:
        StageError: an unknown form, or one column of a pair without the other.
    """

    form: str = "auto"
    prompt_column: str | None = None
    completion_column: str | None = None
    separator: str | None = None
    as_chat: bool = False

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise StageError(f"form={self.form!r} is not a choice for SFT: {', '.join(FORMS)}")
        if (self.prompt_column is None) != (self.completion_column is None):
            raise StageError("--prompt_column and --completion_column belong together: give both, or neither")
        if self.prompt_column is not None and self.form not in ("auto", "pair"):
            raise StageError(f"--prompt_column and --completion_column are for --form pair, not {self.form!r}")

    def converter(self, row: Mapping[str, Any]) -> Convert:
        """The function from a row to TRL's ``{"text"}``, ``{"prompt", "completion"}`` or ``{"messages"}``.

        Args:
            row: the first of the data set; ``auto`` decides by its columns.

        Raises:
            ValueError: no known form fits it. The function raises it too, for a row that does not fit.
        """
        form, pair = self._chosen(row)
        if form == "pair":
            separator = self.separator if self.separator is not None else "" if pair[0] == "prompt" else "\n"
            return lambda row: _pair(row, *pair, separator, self.as_chat)
        return {"text": _text, "messages": _messages, "hh": _hh, "hh_chat": _hh_chat}[form]

    def _chosen(self, row: Mapping[str, Any]) -> tuple[str, tuple[str, str]]:
        if self.prompt_column is not None and self.completion_column is not None:
            return "pair", (self.prompt_column, self.completion_column)
        pairs = [pair for pair in PAIRS if all(name in row for name in pair)]
        if pairs and self.form in ("auto", "pair"):
            return "pair", pairs[0]
        if self.form == "auto":
            form = next((name for name in ("messages", "text") if name in row), None)
            if form is not None:
                return form, PAIRS[0]
        if self.form in ("auto", "pair"):
            raise ValueError(
                f"no form of SFT has the columns {', '.join(row) or '(none)'}; known are text, messages and "
                f"{', '.join('/'.join(pair) for pair in PAIRS)}: choose --form, or name the columns by "
                "--prompt_column and --completion_column"
            )
        return self.form, PAIRS[0]


def _text(row: Mapping[str, Any]) -> Example:
    return {"text": text(row, "text")}


def _messages(row: Mapping[str, Any]) -> Example:
    found = messages(row, "messages")
    if all(message["role"] != "assistant" for message in found):
        raise ValueError("no message of the assistant, so there is nothing to learn")
    return {"messages": found}


def _pair(row: Mapping[str, Any], prompt_column: str, completion_column: str, separator: str, chat: bool) -> Example:
    prompt, completion = of_one_kind(row, prompt_column, completion_column)
    if isinstance(prompt, str) and isinstance(completion, str):
        if not chat:
            return {"prompt": prompt + separator, "completion": completion}
        prompt, completion = _said("user", prompt), _said("assistant", completion)
    return {"prompt": prompt, "completion": completion}


def _hh(row: Mapping[str, Any]) -> Example:
    dialogue = text(row, "chosen")
    prompt = _prompt_of(dialogue)
    return {"prompt": prompt, "completion": _not_empty(dialogue[len(prompt) :])}


def _hh_chat(row: Mapping[str, Any]) -> Example:
    dialogue = text(row, "chosen")
    prompt = _prompt_of(dialogue)
    turns = hh_turns(prompt)
    if not turns or turns[-1]["role"] != "user":
        raise ValueError("column 'chosen' holds a dialogue in which no human speaks before the last answer")
    return {"prompt": turns, "completion": _said("assistant", _not_empty(dialogue[len(prompt) :]).strip())}


def _prompt_of(dialogue: str) -> str:
    try:
        return hh_prompt(dialogue)
    except ValueError as error:
        raise ValueError("column 'chosen' holds no dialogue of hh-rlhf: the assistant has no turn") from error


def _not_empty(answer: str) -> str:
    if not answer.strip():
        raise ValueError("the assistant's last turn is empty")
    return answer


def _said(role: str, content: str) -> Text:
    return [{"role": role, "content": content}]
