"""Perplexity on a text file."""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mx_plugin.execution.engine import Engine

from ..errors import StageError
from ..prompts import read_rows

_LONGEST_WINDOW = 512
_CHARACTERS_A_TOKEN = 12


def text_windows(file: str, tokenizer: PreTrainedTokenizerBase, context: int | None, count: int) -> list[list[int]]:
    """Token ids of at most ``count`` tokens of the text, in windows that fit the model; each opens with the
    tokenizer's first token, where it has one. Stories (.jsonl, column ``text``) begin windows of their own.

    Raises:
        StageError: the file cannot be read, or holds nothing to predict.
    """
    width = min(context or _LONGEST_WINDOW, _LONGEST_WINDOW)
    first = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
    windows: list[list[int]] = []
    left = count
    for document in _documents(file, count):
        ids = list(tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"])[:left]
        for start in range(0, len(ids), width - len(first)):
            window = first + ids[start : start + width - len(first)]
            if len(window) > 1:
                windows.append(window)
        left -= len(ids)
        if left <= 0:
            break
    if not windows:
        raise StageError(f"text {file} holds nothing to predict")
    return windows


def _documents(file: str, count: int) -> Iterator[str]:
    path = Path(file)
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        for number, row in enumerate(read_rows(file), start=1):
            if not isinstance(row.get("text"), str):
                raise StageError(f"text {file}, row {number}: no column text; columns: {', '.join(row)}")
            yield row["text"]
        return
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as text:
            yield text.read(count * _CHARACTERS_A_TOKEN)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise StageError(f"cannot read the text {file}: {error}") from error


def perplexity(
    policy: PreTrainedModel, windows: list[list[int]], engine: Engine | None = None, phase: str = ""
) -> float:
    """exp of the mean negative log-likelihood a token, over every token but the first of each window."""
    total, tokens = 0.0, 0
    for window in windows:
        ids = torch.tensor([window], device=policy.device)
        entered = nullcontext() if engine is None else engine.probing(policy=phase)
        with torch.no_grad(), entered:
            logits = policy(input_ids=ids, use_cache=False).logits[0, :-1].float()
        total -= float(torch.log_softmax(logits, -1).gather(-1, ids[0, 1:, None]).double().sum())
        tokens += len(window) - 1
    return math.exp(total / tokens)
