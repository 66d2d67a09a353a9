"""The judge ``preference``: a small head on a frozen model, trained here on preference pairs that no run has seen."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from mx_plugin.sensitivity import TextBar

from ..errors import StageError
from ..models import context_length, load_policy, load_tokenizer
from ..prompts import Prompt, hh_prompt, read_rows
from .head import Head, accuracy, fit_head, wilson
from .text import as_text

_BATCH = 8
Pair = tuple[str, str, str]
"""Prompt, preferred answer, other answer."""


@dataclass(frozen=True)
class HeadRecord:
    """How a head was trained and how well it does on pairs that it was not trained on."""

    model: str
    pairs: str
    training_pairs: int
    held_out_pairs: int
    held_out_accuracy: float
    held_out_accuracy_low: float
    held_out_accuracy_high: float
    penalty: float
    seed: int


class PreferenceJudge:
    """A linear head over the frozen hidden states of ``model``, trained on preferences (Bradley and Terry, 1952).

    It shares nothing with a reward that the runs were trained on but perhaps the backbone: its pairs are ones whose
    prompts were neither trained on nor answered, its head has its own initialisation, and everything is float32. The
    head is kept in ``folder`` and its accuracy on held-out pairs is printed; near one half it judges nothing.

    Args:
        pairs: rows with ``chosen`` and ``rejected``: whole dialogues (hh-rlhf), or texts or messages after ``prompt``.
        model: whose hidden states the head reads.
        num_pairs: at most so many pairs are used; a fifth of them is held out, a fifth chooses the penalty.
        max_length: tokens of a dialogue; longer ones lose their beginning.
    """

    def __init__(
        self,
        pairs: str,
        model: str,
        num_pairs: int = 800,
        max_length: int = 256,
        seed: int = 1,
        *,
        folder: Path | None = None,
        used_prompts: Sequence[Prompt] = (),
    ) -> None:
        self.path, self.pairs, self.seed, self.num_pairs = model, pairs, seed, num_pairs
        self.model: Any = load_policy(self.path, dtype=torch.float32).eval()
        self.tokenizer = load_tokenizer(self.path)
        self.max_length = min(max_length, context_length(self.model) or max_length)
        self._used = {as_text(prompt).strip() for prompt in used_prompts}
        self.head, self.record = self._cached(folder)
        print(self.record_line(), file=sys.stderr)

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        texts = [(as_text(p), c) for p, c in zip(prompts, completions, strict=True)]
        return [float(score) for score in self.head(self._features(texts))]

    def describe(self) -> dict[str, Any]:
        return {"judge": "preference", "dtype": "float32", "unit": "logits", **asdict(self.record)}

    def record_line(self) -> str:
        """What is printed when the judge is ready."""
        r = self.record
        line = (
            f"judge preference: right on {r.held_out_accuracy:.1%} of {r.held_out_pairs} held-out pairs "
            f"[{r.held_out_accuracy_low:.1%}, {r.held_out_accuracy_high:.1%}]"
        )
        return line + (": no better than chance, its verdicts mean nothing" if r.held_out_accuracy_low <= 0.5 else "")

    # ------------------------------------------------------------------ the head

    def _cached(self, folder: Path | None) -> tuple[Head, HeadRecord]:
        """The head that was trained before on the same pairs with the same settings, or a new one."""
        found = self._split()
        key = [self.path, self.num_pairs, self.max_length, self.seed, found]
        name = f"preference-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]}"
        file = None if folder is None else folder / f"{name}.safetensors"
        if file is not None and file.is_file() and file.with_suffix(".json").is_file():
            record = HeadRecord(**json.loads(file.with_suffix(".json").read_text("utf-8")))
            return Head.of(load_file(file)), record
        head, record = self._train(*found)
        if file is not None:
            _save(file, head, record)
        return head, record

    def _split(self) -> tuple[list[Pair], list[Pair], list[Pair]]:
        """Pairs to train on, to choose the penalty, and held out; drawn by the seed."""
        pairs = [pair for pair in read_pairs(self.pairs) if pair[0].strip() not in self._used]
        random.Random(self.seed).shuffle(pairs)
        pairs = pairs[: self.num_pairs]
        part = len(pairs) // 5
        if part < 4:
            raise StageError(
                f"judge preference: {len(pairs)} pairs of {self.pairs} have a prompt that was not used by the runs; "
                "at least 20 are needed"
            )
        return pairs[2 * part :], pairs[part : 2 * part], pairs[:part]

    def _train(self, train: list[Pair], choose: list[Pair], test: list[Pair]) -> tuple[Head, HeadRecord]:
        print(f"judge preference: training its head on {len(train)} pairs of {self.pairs}", file=sys.stderr)
        bar = TextBar(sys.stderr)
        bar.begin(2 * sum(-(-len(pairs) // _BATCH) for pairs in (train, choose, test)))
        (chosen, rejected), others, held_out = (self._sides(pairs, bar) for pairs in (train, choose, test))
        bar.end()
        head, penalty = fit_head(chosen, rejected, *others, seed=self.seed)
        share = accuracy(head, *held_out)
        low, high = wilson(share, len(test))
        record = HeadRecord(
            self.path, self.pairs, len(train), len(test), share, low, high, penalty, self.seed
        )  # fmt: skip
        return head, record

    def _sides(self, pairs: list[Pair], bar: TextBar) -> tuple[torch.Tensor, torch.Tensor]:
        return (
            self._features([(prompt, good) for prompt, good, _ in pairs], bar),
            self._features([(prompt, bad) for prompt, _, bad in pairs], bar),
        )

    # ------------------------------------------------------------------ features

    @torch.no_grad()
    def _features(self, texts: Sequence[tuple[str, str]], bar: TextBar | None = None) -> torch.Tensor:
        """(texts, 2 x hidden) float32: the mean over the answer's tokens, and the last one."""
        backbone = self.model.base_model
        found: list[torch.Tensor] = []
        for start in range(0, len(texts), _BATCH):
            rows, answers = [], []
            for prompt, answer in texts[start : start + _BATCH]:
                before = list(self.tokenizer(prompt, verbose=False)["input_ids"])
                after = list(self.tokenizer(answer, add_special_tokens=False, verbose=False)["input_ids"])
                rows.append((before + after)[-self.max_length :] or [0])
                answers.append(max(1, min(len(after), len(rows[-1]))))
            width = max(map(len, rows))
            tokens = torch.tensor([ids + [0] * (width - len(ids)) for ids in rows])
            mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in rows])
            hidden = backbone(input_ids=tokens, attention_mask=mask)[0].float()
            for row, (ids, count) in enumerate(zip(rows, answers, strict=True)):
                own = hidden[row, len(ids) - count : len(ids)]
                found.append(torch.cat([own.mean(0), own[-1]]))
            if bar is not None:
                bar.step("hidden states")
        return torch.stack(found)


def read_pairs(source: str) -> Iterator[Pair]:
    """Prompt, preferred and other answer of every row.

    Raises:
        StageError: a row without them.
    """
    for number, row in enumerate(read_rows(source), start=1):
        good, bad, prompt = row.get("chosen"), row.get("rejected"), row.get("prompt")
        if isinstance(good, str) and isinstance(bad, str) and prompt is None and "\n\nAssistant:" in good:
            prompt = hh_prompt(good)
            # A few dialogues part before their last turn: those are no two answers to one prompt.
            if bad.startswith(prompt):
                yield prompt, good[len(prompt) :], bad[len(prompt) :]
            continue
        if prompt is None or good is None or bad is None:
            raise StageError(f"{source}, row {number}: columns {', '.join(row)}; judge preference needs chosen, "
                             "rejected and, unless they are whole dialogues, prompt")  # fmt: skip
        yield as_text(prompt), _answer(good), _answer(bad)


def _answer(answer: Any) -> str:
    return answer if isinstance(answer, str) else str(answer[-1]["content"])


def _save(file: Path, head: Head, record: HeadRecord) -> None:
    """The record goes last: a head without one is trained again."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}.tmp")
    save_file(head.tensors(), partial)
    os.replace(partial, file)
    text = json.dumps(
        {k: v if not isinstance(v, float) or math.isfinite(v) else None for k, v in asdict(record).items()}
    )
    file.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
