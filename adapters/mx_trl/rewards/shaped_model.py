"""Shaping for a reward *model*: its score is replaced on the way out, by hooks on the model itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .shaping import Shaping


def shape_scores(model: nn.Module, shaping: Shaping) -> None:
    """For trainers that call the model (GRPO): ``logits`` (rows, 1) of its output are shaped.

    ``model.shaping`` is where a checkpoint finds the state.
    """

    def shaped(_: nn.Module, __: Any, output: Any) -> Any:
        output.logits = _shaped(output.logits[:, 0], shaping)[:, None]
        return output

    model.shaping = shaping  # type: ignore[assignment]
    model.register_forward_hook(shaped)


def shape_head(model: nn.Module, shaping: Shaping, prompt_width: int) -> None:
    """For PPO, which calls the backbone and then ``model.score``, and reads the score at the response's last token.

    The head's output (rows, tokens, 1) becomes the shaped score at every token. Which token is the last follows from
    the attention mask that the backbone is given.

    Args:
        prompt_width: tokens, padding included, before the response: the same for every batch.
    """
    last: list[torch.Tensor] = []

    def remember(_: nn.Module, __: Any, given: dict[str, Any]) -> None:
        last[:] = [_last_tokens(given["attention_mask"].bool(), prompt_width)]

    def shaped(_: nn.Module, __: Any, logits: torch.Tensor) -> torch.Tensor:
        at = last.pop()
        scores = logits[torch.arange(len(logits), device=logits.device), at, 0]
        return _shaped(scores, shaping)[:, None, None].expand_as(logits)

    model.shaping = shaping  # type: ignore[assignment]
    getattr(model, str(model.base_model_prefix)).register_forward_pre_hook(remember, with_kwargs=True)
    model.score.register_forward_hook(shaped)  # type: ignore[union-attr]


def _last_tokens(mask: torch.Tensor, prompt_width: int) -> torch.Tensor:
    """Index of the token before the response's first padding, (rows,); of the last token where there is none."""
    padded = ~mask[:, prompt_width:]
    length = torch.where(padded.any(1), padded.int().argmax(1), padded.shape[1])
    return length + prompt_width - 1


def _shaped(scores: torch.Tensor, shaping: Shaping) -> torch.Tensor:
    return torch.tensor(shaping(scores.float().tolist()), dtype=scores.dtype, device=scores.device)
