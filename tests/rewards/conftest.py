"""The embedded model and its prompts, made once for the tests of rewards."""

from __future__ import annotations

import os

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mx_trl.embedded import EmbeddedFolder

pytest.importorskip("trl")


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedFolder:
    from mx_trl.embedded import build

    return build(tmp_path_factory.mktemp("embedded") / "made", warm_up_steps=8)
