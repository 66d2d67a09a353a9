"""Peaks of the resident set come from the kernel's mark."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

pytest.importorskip("transformers")

from mx_trl.profiler.memory import PeakMemory, Peaks

MB = 2**20


def test_a_peak_is_seen_after_it_is_over_and_not_again() -> None:
    memory = PeakMemory(cuda=False)
    if memory.why:
        pytest.skip(f"this kernel has no mark to set back: {memory.why}")
    try:
        before = memory.take().resident
        block = torch.ones(64 * MB // 4)
        del block
        peak, after = memory.take().resident, memory.take().resident
    finally:
        memory.close()
    assert before is not None and peak is not None and after is not None
    assert peak >= before + 60 * MB
    assert after <= peak - 60 * MB


def test_the_mark_of_the_program_that_started_this_one_is_not_its_own() -> None:
    """``ru_maxrss`` survives fork and exec."""
    asked = (
        "from mx_trl.profiler.memory import PeakMemory; m = PeakMemory(cuda=False); p = m.take().resident; "
        "print(p if p is not None else 'unknown')"
    )
    ballast = torch.ones(1536 * MB // 4)
    answer = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout.strip()
    assert ballast.numel()
    if answer == "unknown":
        pytest.skip("this kernel has no mark to set back")
    assert int(answer) < 1536 * MB


def test_what_cannot_be_read_is_none_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> int:
        raise PermissionError(13, "Permission denied", "/proc/self/clear_refs")

    monkeypatch.setattr("mx_trl.profiler.memory.os.write", refuse)
    memory = PeakMemory(cuda=False)
    try:
        assert memory.take() == Peaks(None, None)
        assert "Permission denied" in memory.why
    finally:
        memory.close()


def test_peaks_add_up_to_the_larger() -> None:
    assert Peaks(3, None).larger(Peaks(5, None)) == Peaks(5, None)
    assert Peaks(3, 4).larger(Peaks(None, 2)) == Peaks(3, 4)
