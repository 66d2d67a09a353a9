"""The embedded model and its prompts, made once for the tests of rewards."""

from __future__ import annotations

import os

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import gc
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mx_trl.embedded import EmbeddedFolder

pytest.importorskip("trl")


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedFolder:
    from mx_trl.embedded import build

    return build(tmp_path_factory.mktemp("embedded") / "made", warm_up_steps=8)


@pytest.fixture(scope="session", autouse=True)
def _imports_are_not_collected() -> Iterator[None]:
    """PPOTrainer collects garbage several times a step: without all that imports left behind, that is instant."""
    with suppress(ImportError):
        import_module("trl.experimental.ppo")
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
