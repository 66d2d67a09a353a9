"""The trainers of tests/trl, and one thread: models this small are fastest so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.trl.conftest import _the_process_is_left_as_it_was, embedded, make_ppo, ppo_imported  # noqa: F401


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
