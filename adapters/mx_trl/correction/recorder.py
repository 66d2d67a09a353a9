"""The sampler's own log-probabilities, written down while plain ``generate`` samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationMixin, LogitsProcessor

from mx_plugin.errors import MXError

_FACTORY = "_get_logits_processor"


class CorrectionError(MXError, RuntimeError):
    """The sampler's log-probs cannot be had, or cannot be used, in this run: says why, and what to change."""


class SamplerLogProbs(LogitsProcessor):  # type: ignore[misc]
    """The last of ``generate``'s logits processors: it changes nothing and sees what the token is drawn from.

    Scores are final there: temperature, top-k, top-p and penalties are in them. Of each step it keeps one number a
    sequence, and of the last step the whole distribution, until the next step tells which token was drawn.
    """

    def __init__(self) -> None:
        self._picked: list[torch.Tensor] = []
        self._pending: torch.Tensor | None = None
        self._ids: torch.Tensor | None = None
        self._prompt = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """``input_ids``: (sequences, length so far); ``scores``: (sequences, vocabulary), returned as they are."""
        if self._pending is None:
            self._prompt = input_ids.shape[1]
        else:
            assert self._ids is not None
            if input_ids.shape[1] != self._ids.shape[1] + 1 or not torch.equal(input_ids[:, :-1], self._ids):
                raise CorrectionError(
                    "generation does not extend each sequence by one token a step (beam search, assisted decoding?), "
                    "so the sampler's log-probs cannot be told; sample plainly, or set rollout_correction='off'"
                )
            self._picked.append(self._pending.gather(-1, input_ids[:, -1:])[:, 0])
        self._pending, self._ids = torch.log_softmax(scores.float(), -1), input_ids
        return scores

    def of(self, completions: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probs (nats, float32) of these tokens, sequence by sequence; they are a beginning of what was sampled.

        Raises:
            CorrectionError: nothing was recorded, or other tokens were.
        """
        if self._pending is None or self._ids is None:
            raise CorrectionError(
                "the completions were not sampled by transformers' generate, so the sampler's log-probs are unknown; "
                "set rollout_correction='off'"
            )
        steps = len(self._picked) + 1
        seen = self._ids[:, self._prompt :].tolist()
        if len(completions) != len(seen):
            raise CorrectionError(f"{len(completions)} completions, but {len(seen)} sequences were sampled")
        picked = torch.stack(self._picked, 1).tolist() if self._picked else [[] for _ in seen]
        found = []
        for row, tokens in enumerate(completions):
            known = list(tokens[: steps - 1])
            if len(tokens) > steps or known != seen[row][: len(known)]:
                raise CorrectionError(f"completion {row} is not what was sampled; set rollout_correction='off'")
            last = [float(self._pending[row, tokens[-1]])] if len(tokens) == steps else []
            found.append(picked[row][: len(known)] + last)
        return found


@contextmanager
def recording() -> Iterator[SamplerLogProbs]:
    """Put a recorder behind all other logits processors of the generation in the ``with`` block.

    Raises:
        CorrectionError: this version of transformers builds its processors elsewhere.
    """
    original = getattr(GenerationMixin, _FACTORY, None)
    if original is None:
        raise CorrectionError(
            f"this version of transformers has no GenerationMixin.{_FACTORY}, where the sampler's scores are seen; "
            "install a tested one, or set rollout_correction='off'"
        )
    recorder = SamplerLogProbs()

    def build(self: Any, *arguments: Any, **options: Any) -> Any:
        processors = original(self, *arguments, **options)
        processors.append(recorder)
        return processors

    setattr(GenerationMixin, _FACTORY, build)
    try:
        yield recorder
    finally:
        setattr(GenerationMixin, _FACTORY, original)
