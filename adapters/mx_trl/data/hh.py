"""Dialogues as hh-rlhf writes them: one text, each turn opened by a blank line and its speaker."""

from __future__ import annotations

from collections.abc import Sequence

ASSISTANT, HUMAN = "\n\nAssistant:", "\n\nHuman:"

Messages = list[dict[str, str]]


def is_dialogue(text: object) -> bool:
    """Whether a text begins as such a dialogue does and has an assistant's turn."""
    return isinstance(text, str) and text.lstrip().startswith(HUMAN.strip()) and ASSISTANT in text


def hh_prompt(dialogue: str) -> str:
    """Everything up to and including the last ``\\n\\nAssistant:`` of an hh-rlhf dialogue.

    Raises:
        ValueError: the assistant has no turn.
    """
    return dialogue[: dialogue.rindex(ASSISTANT) + len(ASSISTANT)]


def hh_turns(dialogue: str) -> Messages:
    """The dialogue as chat messages; text before the first human's turn is left out.

    A few real dialogues have two turns of one speaker in a row: those are joined by a blank line.
    """
    messages: Messages = []
    for chunk in dialogue.split(HUMAN)[1:]:
        human, *answers = chunk.split(ASSISTANT)
        for role, text in (("user", human), *(("assistant", answer) for answer in answers)):
            _add_turn(messages, role, text.strip())
    return messages


def hh_messages(dialogue: str) -> Messages:
    """The dialogue as chat messages that end with the human's last turn, so that the assistant speaks next.

    Raises:
        ValueError: no turn of a human before an assistant's.
    """
    messages = hh_turns(hh_prompt(dialogue))
    while messages and messages[-1]["role"] == "assistant":
        messages.pop()
    if not messages:
        raise ValueError("no human's turn")
    return messages


def shared_length(first: Sequence[object], second: Sequence[object]) -> int:
    """How many leading items two sequences (characters of two texts) have in common."""
    for position, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return position
    return min(len(first), len(second))


def hh_answers(chosen: str, rejected: str) -> tuple[str, str, str]:
    """(prompt, chosen, rejected): what both dialogues share up to an opening of the assistant, and the rests.

    Raises:
        ValueError: they share no opening of the assistant.
    """
    shared = chosen[: shared_length(chosen, rejected)]
    if ASSISTANT not in shared:
        raise ValueError(f"chosen and rejected share no turn up to {ASSISTANT.strip()!r}")
    prompt = hh_prompt(shared)
    return prompt, chosen[len(prompt) :], rejected[len(prompt) :]


def _add_turn(messages: Messages, role: str, text: str) -> None:
    if text and messages and messages[-1]["role"] == role:
        messages[-1]["content"] += f"\n\n{text}"
    elif text:
        messages.append({"role": role, "content": text})
