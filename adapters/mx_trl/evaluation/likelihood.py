"""The judge ``likelihood``: how probable another language model finds a response."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import StageError
from ..models import context_length, load_policy, load_tokenizer
from ..prompts import Prompt
from .text import as_text

_BATCH = 16


class LikelihoodJudge:
    """Mean log-probability of the response's tokens under another model, in nats a token, in float32.

    It measures fluency, not usefulness: a text that repeats itself scores high. Texts are tokenised by the judge's own
    tokenizer; those longer than its context are cut at the left. A response without tokens scores -log(vocabulary).

    Args:
        model: folder or hub id, of another model than ``start``: how far a policy went from its start is KL.
    """

    def __init__(self, model: str, start: str = "") -> None:
        if start and _same(model, start):
            raise StageError(
                f"judge likelihood: {model} is the model that was trained; judge by another, KL to the start is "
                "reported anyway"
            )
        self.path = model
        self.model = load_policy(model, dtype=torch.float32).eval()
        self.tokenizer = load_tokenizer(model)
        self.context = context_length(self.model) or 2**31

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        scores: list[float] = []
        for start in range(0, len(completions), _BATCH):
            end = start + _BATCH
            scores += self._batch([as_text(p) for p in prompts[start:end]], list(completions[start:end]))
        return scores

    def describe(self) -> dict[str, Any]:
        return {"judge": "likelihood", "model": self.path, "dtype": "float32", "unit": "nats a token"}

    @torch.no_grad()
    def _batch(self, prompts: list[str], completions: list[str]) -> list[float]:
        before = [self._ids(text, True) for text in prompts]
        after = [self._ids(text, False) for text in completions]
        rows = [(p + c)[-self.context :] for p, c in zip(before, after, strict=True)]
        width = max(map(len, rows))
        tokens = torch.tensor([ids + [0] * (width - len(ids)) for ids in rows])
        mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in rows])
        logits = self.model(input_ids=tokens, attention_mask=mask, use_cache=False).logits.float()
        found = torch.log_softmax(logits[:, :-1], -1).gather(-1, tokens[:, 1:, None])[..., 0]
        scores = []
        for row, (ids, answer) in enumerate(zip(rows, after, strict=True)):
            count = min(len(answer), len(ids) - 1)
            own = found[row, len(ids) - 1 - count : len(ids) - 1]
            scores.append(float(own.mean()) if count else -math.log(logits.shape[-1]))
        return scores

    def _ids(self, text: str, special: bool) -> list[int]:
        ids = list(self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])
        if special and not ids:  # something must stand before the first token that is scored
            first = self.tokenizer.bos_token_id
            ids = [first if first is not None else self.tokenizer.eos_token_id or 0]
        return ids


def _same(one: str, other: str) -> bool:
    return one == other or (Path(one).exists() and Path(other).exists() and Path(one).samefile(other))
