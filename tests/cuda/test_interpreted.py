"""Without a GPU the kernels' tests run through Triton's interpreter, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parent
FILES = sorted(path.name for path in FOLDER.glob("test_kernels_*.py"))


def interpreted(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on files of this folder with the interpreter; kernels run on one thread there anyway."""
    # Without what the outer run hands on to pytest: its report would be overwritten.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *arguments]
    return subprocess.run(command, cwd=FOLDER.parents[1], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="ran directly: the files themselves are collected on a GPU")
@pytest.mark.parametrize("file", FILES)
def test_the_kernels_pass_their_tests_in_the_interpreter(file: str) -> None:
    done = interpreted(f"tests/cuda/{file}")
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="ran directly: the files themselves are collected on a GPU")
def test_the_kernels_pass_the_whole_conformance_kit_in_the_interpreter() -> None:
    done = interpreted("-m", "slow", "tests/cuda/test_kernels_conformance.py")
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
