"""The peak of memory between two calls, from the kernel's own mark: no thread that samples."""

from __future__ import annotations

import os
import resource
from typing import NamedTuple

import torch

_RESET_PEAK = b"5"
"""What Linux (4.0 and later; proc(5), /proc/pid/clear_refs) takes to set VmHWM back to the present resident set."""

_MARK = b"VmHWM:"


class Peaks(NamedTuple):
    """Bytes; None where they are not known."""

    resident: int | None = None
    cuda: int | None = None

    def larger(self, other: Peaks) -> Peaks:
        """The larger of each; what only one knows is its."""
        return Peaks(*(max((v for v in pair if v is not None), default=None) for pair in zip(self, other, strict=True)))


class PeakMemory:
    """Peaks of the resident set and of torch's CUDA allocator since the last :meth:`take`.

    Both are marks that the kernel and the allocator keep anyway, read and set back at the end of a phase; whoever else
    reads them (``ru_maxrss``, ``torch.cuda.max_memory_allocated``) sees the peak since then, too. ``why``: why the
    resident set's peak is not known; empty where it is.
    """

    def __init__(self, cuda: bool) -> None:
        self.why = ""
        self._cuda = cuda
        self._status = self._reset = -1
        try:
            self._status = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
            self._reset = os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
            os.write(self._reset, _RESET_PEAK)
        except OSError as error:
            self.why = f"the kernel lets no process set back its peak of resident memory: {error}"
        self._inherited = _maximum_resident()
        """Bytes: at least the mark of the program that started this one, below which ru_maxrss never falls."""
        if cuda:
            torch.cuda.reset_peak_memory_stats()

    def take(self) -> Peaks:
        """The peaks since the last call; counted anew from here."""
        return Peaks(None if self.why else self._resident(), self._allocated() if self._cuda else None)

    def _resident(self) -> int | None:
        try:
            # A line of /proc/self/status is the exact one, and costs ten times as much: the kernel writes out all.
            peak = _maximum_resident()
            if peak <= self._inherited:
                peak = self._marked()
            os.pwrite(self._reset, _RESET_PEAK, 0)
        except (OSError, ValueError) as error:
            self.why = f"the peak of resident memory cannot be read: {error}"
            return None
        return peak

    def _marked(self) -> int:
        text = os.pread(self._status, 4096, 0)
        at = text.index(_MARK) + len(_MARK)
        return 1024 * int(text[at : text.index(b"kB", at)])

    def _allocated(self) -> int:
        peak = int(torch.cuda.max_memory_allocated())
        torch.cuda.reset_peak_memory_stats()
        return peak

    def close(self) -> None:
        """Give back the files. Idempotent."""
        for file in (self._status, self._reset):
            if file >= 0:
                os.close(file)
        self._status = self._reset = -1


def _maximum_resident() -> int:
    """Bytes; the larger of this program's mark (VmHWM) and of the one that a program of before ``exec`` left behind."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
