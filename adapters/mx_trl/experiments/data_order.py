"""Every policy of a seed trains on the same prompts in the same order; the run records which.

PPOTrainer shuffles by torch's global generator, from which generation draws as well: where responses end earlier under
one policy than under another, the prompts of the second epoch would differ. So its sampler gets a generator of its own.
GRPOTrainer's sampler has one already.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import RandomSampler

from ..errors import StageError

FILE = "data_order.csv"


def fix_order(trainer: Any, seed: int) -> None:
    """Give PPO's sampler a generator of its own, seeded by ``seed``.

    Raises:
        StageError: a PPOTrainer that shuffles in another way.
    """
    loader = getattr(trainer, "dataloader", None)
    if loader is None:
        return
    sampler = getattr(loader.batch_sampler, "sampler", None)
    if not isinstance(sampler, RandomSampler):
        raise StageError(
            f"{type(trainer).__name__} draws its prompts by {type(sampler).__name__}, not RandomSampler: policies of a "
            "seed could not be given the same prompts"
        )
    sampler.generator = torch.Generator().manual_seed(seed)


def record_order(trainer: Any, folder: Path) -> None:
    """Write ``data_order.csv``: a row per batch of prompts as it is drawn, with the SHA-256 of its rows."""
    file = folder / FILE
    file.write_text("batch,prompts,sha256\n", encoding="utf-8")
    loader = getattr(trainer, "dataloader", None)
    if loader is None:
        trainer.data_collator = _recording(trainer.data_collator, file)
        return
    base = getattr(loader, "base_dataloader", loader)
    base.collate_fn = _recording(base.collate_fn, file)


def _recording(collate: Callable[..., Any], file: Path) -> Callable[..., Any]:
    count = 0

    def collated(rows: Sequence[Any]) -> Any:
        nonlocal count
        count += 1
        text = json.dumps([_prompt(row) for row in rows])
        with file.open("a", encoding="utf-8") as opened:
            opened.write(f"{count},{len(rows)},{hashlib.sha256(text.encode()).hexdigest()}\n")
        return collate(rows)

    return collated


def _prompt(row: Any) -> Any:
    return row["input_ids"] if "input_ids" in row else row["prompt"]
