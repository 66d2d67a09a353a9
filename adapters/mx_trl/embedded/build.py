"""Writes the embedded model, reward model, prompts and examples to a folder, once."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import StageError
from .examples import dialogues, pairs, scores
from .language import prompts
from .policy import WARM_UP_STEPS, make_policy
from .reward import make_reward_model
from .tokenizer import make_tokenizer

CONTEXT = 64
"""Longest sequence of the embedded models, in tokens."""

_VERSION = "4"
_MARK = "VERSION"


@dataclass(frozen=True)
class EmbeddedFolder:
    """Paths: policy and reward model folders (tokenizer included), and JSONL files.

    ``prompts`` for PPO and GRPO, ``dialogues`` (prompt and completion) for SFT, ``pairs`` for DPO and the reward model,
    ``scores`` (prompt, completion, score) for the reward model.
    """

    policy: Path
    reward: Path
    prompts: Path
    dialogues: Path
    pairs: Path
    scores: Path

    @classmethod
    def at(cls, folder: Path) -> EmbeddedFolder:
        """Where :func:`build` puts them in ``folder``."""
        names = ("prompts", "dialogues", "pairs", "scores")
        return cls(folder / "policy", folder / "reward", *(folder / f"{name}.jsonl" for name in names))


def build(folder: Path | str, seed: int = 0, warm_up_steps: int = WARM_UP_STEPS) -> EmbeddedFolder:
    """Make the embedded default in ``folder`` (some seconds), or reuse what a former run left there.

    The global random state is the same afterwards as before. A folder half written by an interrupted run
    is never used: the work is done beside it and renamed.

    Raises:
        StageError: the folder holds something else.
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    mark = f"embedded {_VERSION}, seed {seed}, warmed up by {warm_up_steps} steps\n"
    if not _is_current(folder, mark):
        _check_may_go(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            made = Path(scratch) / "made"
            _write(made, seed, warm_up_steps)
            (made / _MARK).write_text(mark, encoding="utf-8")
            if folder.exists():
                shutil.rmtree(folder)
            made.rename(folder)
    return EmbeddedFolder.at(folder)


def _is_current(folder: Path, mark: str) -> bool:
    found = folder / _MARK
    return found.is_file() and found.read_text(encoding="utf-8") == mark


def _check_may_go(folder: Path) -> None:
    """Only what an earlier version, another seed or an interrupted copy left here is replaced."""
    mark = folder / _MARK
    if mark.is_file() and mark.read_text(encoding="utf-8", errors="replace").startswith("embedded "):
        return
    ours = {path.name for path in vars(EmbeddedFolder.at(folder)).values()} | {_MARK}
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name} if folder.exists() else set()
    if found - ours:
        raise StageError(
            f"{folder} holds other things than an embedded model ({', '.join(sorted(found - ours)[:3])}): "
            "choose another folder, or an empty one"
        )


@contextmanager
def _one_thread() -> Iterator[None]:
    # On a busy machine a second thread makes operations this small twenty times slower: they wait for each other.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _write(folder: Path, seed: int, warm_up_steps: int) -> None:
    tokenizer = make_tokenizer(CONTEXT)
    with torch.random.fork_rng(), torch.enable_grad(), _one_thread():
        policy = make_policy(tokenizer, CONTEXT, seed, warm_up_steps)
        reward = make_reward_model(tokenizer, CONTEXT)
    paths = EmbeddedFolder.at(folder)
    for model, path in ((policy, paths.policy), (reward, paths.reward)):
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
    _write_rows(paths.prompts, [{"prompt": [{"role": "user", "content": text}]} for text in prompts()])
    _write_rows(paths.dialogues, dialogues(seed))
    _write_rows(paths.pairs, pairs(seed))
    _write_rows(paths.scores, scores(seed))


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
