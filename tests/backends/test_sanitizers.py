"""`make sanitize` sees what it is there to see: these tests fail on a build whose sanitizers are asleep."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mx_cpu import build
from mx_cpu.library import LIBRARY_VARIABLE, Cast, library
from mx_cpu.native_casts import NativeCasts
from mx_cpu.native_weight import NativeWeight
from mx_plugin.formats import quantize
from mx_plugin.formats.rules import cast_rule

SANITIZE = Path(__file__).parents[2] / ".ci" / "sanitize.py"
REASON = "runs under `make sanitize`"


@pytest.fixture
def sanitized() -> None:
    if b"__asan_init" not in Path(os.environ.get(LIBRARY_VARIABLE) or build.LIBRARY).read_bytes():
        pytest.skip(REASON)


def complaint(body: Callable[[], None], folder: Path) -> str:
    """What a forked child wrote to stderr before the sanitizers ended it."""
    told = folder / "stderr.txt"
    child = os.fork()
    if child == 0:
        os.dup2(os.open(told, os.O_WRONLY | os.O_CREAT), 2)
        body()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) != 0, "it went on as if nothing were wrong"
    return told.read_text(errors="replace")


def cast(source: torch.Tensor, length: int, values: torch.Tensor) -> Callable[[], None]:
    """A cast that believes what it is told of lengths, to MXINT8: gcc instruments no masked store, which others use."""

    def body() -> None:
        job = Cast()
        job.rule = NativeCasts(library()).rule(cast_rule("MXINT8"))
        job.before, job.length, job.out_length, job.after = 1, length, length, 1
        job.source, job.values, job.threads = source.data_ptr(), values.data_ptr(), 1
        library().cast(job)

    return body


@pytest.mark.usefixtures("level", "sanitized")
@pytest.mark.parametrize(("there", "room", "expected"), [(95, 96, "READ of size"), (96, 95, "WRITE of size")])
def test_a_cast_past_the_end_of_a_tensor_is_stopped(there: int, room: int, expected: str, tmp_path: Path) -> None:
    told = complaint(cast(torch.randn(there), 96, torch.empty(room)), tmp_path)
    assert "AddressSanitizer" in told and expected in told


@pytest.mark.usefixtures("level", "sanitized")
@pytest.mark.parametrize("rows", [1, 40])
def test_a_product_that_reads_past_a_packed_weight_is_stopped(rows: int, tmp_path: Path) -> None:
    """In whole units: gcc instruments no masked load, for those there is test_native_bounds.py."""
    native, packed = library(), quantize(torch.randn(5, 256), "MXFP8")
    packed.elements = packed.elements[:, :-1].contiguous()
    weight = NativeWeight(packed, native)
    x, y = torch.randn(rows, 256), torch.empty(rows, 5)

    def product() -> None:
        native.linear(weight.job("MXFP8", "floor"), x.data_ptr(), y.data_ptr(), None, rows, 0, 0, 1)

    assert "AddressSanitizer" in complaint(product, tmp_path)


BROKEN = """
#include <cstdint>
extern "C" __attribute__((visibility("default"))) int broken(const int* p, int by) { return p[2] << by; }
"""

LOAD = """
import ctypes, sys, torch
broken = ctypes.CDLL(sys.argv[1]).broken
broken.argtypes = [ctypes.c_void_p, ctypes.c_int]
t = torch.ones(int(sys.argv[2]), dtype=torch.int32)
broken(t.data_ptr(), int(sys.argv[3]))
print("went on")
"""


@pytest.mark.parametrize(
    ("length", "by", "expected"),
    [(3, 1, "went on"), (2, 1, "heap-buffer-overflow"), (3, 40, "shift exponent 40 is too large")],
)
def test_the_flags_catch_what_is_broken_on_purpose(length: int, by: int, expected: str, tmp_path: Path) -> None:
    """With torch's memory and in a process of its own, as `make sanitize` runs them."""
    source, made = tmp_path / "broken.cpp", tmp_path / "broken.so"
    source.write_text(BROKEN)
    subprocess.run(
        [*build.find_compiler(), "-shared", "-fPIC", *build.SANITIZE, str(source), "-o", str(made)], check=True
    )
    command = [sys.executable, SANITIZE, "--exec", sys.executable, "-c", LOAD, made, str(length), str(by)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert expected in done.stdout + done.stderr
    assert (done.returncode == 0) == (expected == "went on")
