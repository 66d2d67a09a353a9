"""The native kernels at each instruction-set level that this processor runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mx_cpu.build import LEVELS
from mx_cpu.library import Library, NativeUnavailable, library


def native_library() -> Library:
    """The library, or a skip that says why there is none."""
    try:
        return library()
    except NativeUnavailable as error:
        pytest.skip(f"no native kernels: {error}")


@pytest.fixture(params=list(LEVELS))
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each level in turn, in force while the test runs."""
    native = native_library()
    before = native.level
    try:
        native.set_level(request.param)
    except NativeUnavailable as error:
        pytest.skip(str(error))
    yield request.param
    native.set_level(before)
