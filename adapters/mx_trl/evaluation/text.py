"""A prompt as plain text, whichever form it has: what judges with their own tokenizer read."""

from __future__ import annotations

from ..prompts import Prompt

_SPEAKERS = {"user": "\n\nHuman: ", "assistant": "\n\nAssistant: "}


def as_text(prompt: Prompt) -> str:
    """Text as it is; messages as a dialogue in hh-rlhf's form that ends where the assistant is to speak."""
    if isinstance(prompt, str):
        return prompt
    turns = "".join(_SPEAKERS.get(m["role"], "\n\n") + str(m["content"]) for m in prompt)
    return f"{turns}\n\nAssistant:"
