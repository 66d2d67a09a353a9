"""What a stage learnt, measured on examples that it was not trained on, before and after, in the model's own dtype."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from mx_plugin.atomic import write_atomically

from ..checkpoints.files import RunFiles
from ..evaluation.head import wilson

_IGNORED = -100

Rows = Sequence[dict[str, Any]]
Measure = Callable[[Any, Any, Rows, int], "Measured"]
"""``measure(model, tokenizer, rows, batch_size)`` of tokenised rows."""


@dataclass(frozen=True)
class Measured:
    """One measurement: ``value`` over all examples, and what each gave.

    ``interval``: 95%, Wilson's, of a share; None for what is no share.
    """

    value: float
    each: list[float]
    interval: tuple[float, float] | None = None

    def __str__(self) -> str:
        low_high = "" if self.interval is None else f" [{self.interval[0]:.3f}, {self.interval[1]:.3f}]"
        return f"{self.value:.3f}{low_high}"


@dataclass(frozen=True)
class HeldOut:
    """``name`` of the measure on ``count`` examples before and after training."""

    name: str
    count: int
    before: Measured
    after: Measured

    def __str__(self) -> str:
        return f"held-out {self.name} {self.before} -> {self.after} ({self.count} examples)"

    def save(self, folder: Path) -> None:
        """Write ``held_out.json``, each example's value included.

        Raises:
            OSError: it cannot be written.
        """
        write_atomically(RunFiles(folder).held_out, json.dumps(asdict(self), indent=1) + "\n")


@contextmanager
def inspected(model: Any) -> Iterator[None]:
    """In eval mode and without gradients; the mode comes back."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


# ---------------------------------------------------------------------------- measures


def next_token_loss(model: Any, tokenizer: Any, rows: Rows, batch_size: int) -> Measured:
    """Negative log-likelihood in nats per token that is learnt; of rows with ``input_ids`` and ``labels``."""
    totals: list[tuple[float, int]] = []
    for chunk in _chunks(rows, batch_size):
        losses = _losses(model, tokenizer, [row["input_ids"] for row in chunk], [row["labels"] for row in chunk])
        totals += [(float(loss.sum()), int(loss.numel())) for loss in losses]
    count = sum(tokens for _, tokens in totals)
    return Measured(sum(loss for loss, _ in totals) / max(1, count), [loss / max(1, n) for loss, n in totals])


def likelier_answer(model: Any, tokenizer: Any, rows: Rows, batch_size: int) -> Measured:
    """Share of pairs of which the policy finds ``chosen`` likelier than ``rejected`` after the prompt.

    Each gives log p(chosen) - log p(rejected), in nats over the whole answers; ties count half.
    """
    each: list[float] = []
    for chunk in _chunks(rows, batch_size):
        sides = []
        for side in ("chosen_ids", "rejected_ids"):
            tokens = [row["prompt_ids"] + row[side] for row in chunk]
            labels = [[_IGNORED] * len(row["prompt_ids"]) + row[side] for row in chunk]
            sides.append([-float(loss.sum()) for loss in _losses(model, tokenizer, tokens, labels)])
        each += [chosen - rejected for chosen, rejected in zip(*sides, strict=True)]
    return _share_above_zero(each)


def better_score(model: Any, tokenizer: Any, rows: Rows, batch_size: int) -> Measured:
    """Share of pairs of which the reward model scores ``chosen`` above ``rejected``; each gives the difference."""
    each: list[float] = []
    for chunk in _chunks(rows, batch_size):
        sides = [_scores(model, tokenizer, [row[side] for row in chunk]) for side in ("chosen_ids", "rejected_ids")]
        each += [chosen - rejected for chosen, rejected in zip(*sides, strict=True)]
    return _share_above_zero(each)


def squared_error(model: Any, tokenizer: Any, rows: Rows, batch_size: int) -> Measured:
    """Mean squared error of the scores of rows with ``input_ids`` and ``score``."""
    each: list[float] = []
    for chunk in _chunks(rows, batch_size):
        found = _scores(model, tokenizer, [row["input_ids"] for row in chunk])
        each += [(score - row["score"]) ** 2 for score, row in zip(found, chunk, strict=True)]
    return Measured(sum(each) / len(each), each)


def _share_above_zero(each: list[float]) -> Measured:
    share = sum((value > 0) + 0.5 * (value == 0) for value in each) / len(each)
    return Measured(share, each, wilson(share, len(each)))


# ---------------------------------------------------------------------------- passes


def _chunks(rows: Rows, size: int) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(rows), size):
        yield [rows[position] for position in range(start, min(start + size, len(rows)))]


def _padded(model: Any, tokenizer: Any, sequences: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, sequences))
    tokens = [ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids in sequences]
    mask = [[1] * len(ids) + [0] * (width - len(ids)) for ids in sequences]
    return torch.tensor(tokens, device=model.device), torch.tensor(mask, device=model.device)


def _losses(model: Any, tokenizer: Any, sequences: list[list[int]], labels: list[list[int]]) -> list[torch.Tensor]:
    """Of every sequence the negative log-probability of each token that has a label, float32."""
    tokens, mask = _padded(model, tokenizer, sequences)
    logits = model(input_ids=tokens, attention_mask=mask).logits
    found = []
    for row, wanted in enumerate(labels):
        target = torch.tensor(wanted[1:], device=logits.device)
        learnt = target != _IGNORED
        scored = logits[row, : len(wanted) - 1][learnt].float()
        found.append(cross_entropy(scored, target[learnt], reduction="none"))
    return found


def _scores(model: Any, tokenizer: Any, sequences: list[list[int]]) -> list[float]:
    tokens, mask = _padded(model, tokenizer, sequences)
    return [float(score) for score in model(input_ids=tokens, attention_mask=mask).logits.squeeze(-1)]
