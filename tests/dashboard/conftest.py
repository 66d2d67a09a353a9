"""Real trainers around the embedded model, watched; fixtures of tests/trl, which make them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trl.conftest import embedded as embedded
from tests.trl.conftest import make_ppo as make_ppo
from tests.trl.conftest import ppo_imported as ppo_imported
from tests.trl.trainers import Workshop


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Models this small are fastest on one thread, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def workshop(embedded: Any, tmp_path: Path) -> Workshop:
    """Makes GRPO and other trainers in ``tmp_path``."""
    return Workshop(embedded, tmp_path)


@pytest.fixture
def lines_of() -> Callable[[Path, str], list[dict[str, Any]]]:
    """``lines_of(folder, "alerts.jsonl")``: the records of a file."""
    return lambda folder, name: [json.loads(line) for line in (folder / name).read_text().splitlines()]
