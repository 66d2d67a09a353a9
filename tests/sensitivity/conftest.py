"""Every profile must leave the process as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from mx_plugin.execution.phases import TRACKER
from tests.sensitivity.resuming import files, run
from tests.sensitivity.tiny import TinyModel


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    yield
    assert TRACKER.phase == "other"
    assert not TRACKER._listeners
    assert not TRACKER._stack


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Operations this small gain nothing from a second thread, and wait for it on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def model() -> TinyModel:
    return TinyModel()


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a profile leaves that nobody interrupts; on one thread, because another number may round otherwise."""
    folder = tmp_path_factory.mktemp("unbroken")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run(folder)
    torch.set_num_threads(threads)
    return files(folder)
