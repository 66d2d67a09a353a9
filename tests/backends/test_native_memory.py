"""Where memory ends, a kernel raises; it does not crash, and works again when there is memory."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from mx_cpu.native_backend import NativeBackend
from mx_plugin import formats

pytestmark = pytest.mark.usefixtures("level")


@contextmanager
def no_more_memory() -> Iterator[None]:
    """Nothing beyond a megabyte more than is mapped now can be had."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (mapped + (1 << 20), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc to know what is mapped")
@pytest.mark.parametrize("threads", [1, 2])
def test_no_memory_is_an_error_and_not_the_end(threads: int) -> None:
    backend = NativeBackend()
    handle = backend.load_weight(formats.quantize(torch.randn(4, 4096), "MXFP4"))
    handle.exact = True  # the path whose work space grows with the rows, on every level
    x = torch.randn(4, 4096)
    wide = torch.randn(6000, 4096)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        product = backend.bind(handle, "MXFP8", "floor")
        expected = product(x, None)
        job, y = handle.job("MXFP8", "floor"), torch.empty(6000, 4)
        with no_more_memory(), pytest.raises(MemoryError, match="no memory for their work space: use a smaller batch"):
            backend._native.linear(job, wide.data_ptr(), y.data_ptr(), None, 6000, 0, 0, threads)
        assert torch.equal(product(x, None), expected)
    finally:
        torch.set_num_threads(before)
        backend.close()
