"""Tests of the GPU backend: on a GPU where torch finds one, else through Triton's interpreter on CPU tensors.

The interpreter is chosen when Triton is imported, for the whole process. So without a GPU the files beside this one are
left out here, and ``test_interpreted.py`` runs them in a process that has TRITON_INTERPRET=1.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

if not (INTERPRETED or torch.cuda.is_available()):
    collect_ignore_glob = ["test_kernels_*.py"]


if INTERPRETED:
    from dataclasses import replace

    from triton.runtime.interpreter import interpreter_builder

    # It computes every whole number twice, to tell of overflows: twice the time.
    interpreter_builder.options = replace(interpreter_builder.options, sanitize_overflow=False)


@pytest.fixture
def device() -> str:
    """Where the kernels run in this process."""
    return "cpu" if INTERPRETED else "cuda"


@pytest.fixture(autouse=True)
def _numpy_overflows() -> Iterator[None]:
    """The interpreter computes with NumPy, which warns of infinities that the tests are about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield
