"""What all tests share: offline, two threads (one in each of several processes), one seed, the way to the real data."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# Read by huggingface_hub when it is first imported, so it must stand before any test module does that.
os.environ["HF_HUB_OFFLINE"] = "1"
# Threads of torch here and in the processes that tests start; where several processes share the tests, one each.
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")

import hypothesis
import pytest
import torch
from packaging.specifiers import SpecifierSet

REPOSITORY = Path(__file__).resolve().parent.parent
# No deadline: a shared machine may be slow. In CI the same examples every time, so that a red run can be repeated.
hypothesis.settings.register_profile("mx", deadline=None, derandomize="CI" in os.environ, print_blob=True)
hypothesis.settings.load_profile("mx")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked ``trl(spec)`` on the other line of TRL: it runs in the other environment."""
    for marker in item.iter_markers("trl"):
        spec = marker.args[0] if marker.args else ""
        try:
            installed = version("trl")
        except PackageNotFoundError:
            pytest.skip(f"needs trl{spec}, which is not installed")
        if installed not in SpecifierSet(spec):
            pytest.skip(f"needs trl{spec}, found {installed}")


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    """Every test draws the same numbers, whichever tests ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real models and texts: ``MX_TEST_DATA``, by default ``../shared/data`` beside the checkout."""
    folder = Path(os.environ.get("MX_TEST_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set MX_TEST_DATA to the folder that holds stories260k, hh-rlhf, ...")
    return folder.resolve()


def _part(data_dir: Path, name: str) -> Path:
    path = data_dir / name
    if not path.exists():
        pytest.skip(f"MX_TEST_DATA={data_dir} holds no {name}")
    return path


@pytest.fixture(scope="session")
def stories260k(data_dir: Path) -> Path:
    """A trained Llama of 0.26 M parameters; hidden 64, FFN 172: its down projection has a ragged last block."""
    return _part(data_dir, "stories260k")


@pytest.fixture(scope="session")
def stories15m(data_dir: Path) -> Path:
    """A trained Llama of 15.2 M parameters in full float32."""
    return _part(data_dir, "stories15m")


@pytest.fixture(scope="session")
def smollm2_gguf(data_dir: Path) -> Path:
    """SmolLM2-135M-Instruct as Q4_1 GGUF: real, but its weights lie on a 4-bit grid already."""
    return _part(data_dir, "smollm2-135m-instruct-gguf")


@pytest.fixture(scope="session")
def hh_rlhf(data_dir: Path) -> Path:
    """2,312 human preference pairs, JSON lines, gzipped."""
    return _part(data_dir, "hh-rlhf/harmless-base-test.jsonl.gz")


@pytest.fixture(scope="session")
def tinystories(data_dir: Path) -> Path:
    """928 stories, in domain for the two stories models; JSON lines, gzipped."""
    return _part(data_dir, "tinystories/stories.jsonl.gz")
