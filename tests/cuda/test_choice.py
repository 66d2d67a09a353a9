"""Which backend ``auto`` is, and what ``cuda`` is on this machine."""

from __future__ import annotations

import pytest

from mx_cuda import capability, plugin
from mx_plugin import plugins
from mx_plugin.execution.backend_choice import automatic


@pytest.mark.parametrize(
    ("kinds", "name"),
    [
        ((), "cpu"), (("cpu",), "cpu"), (("cuda",), "cuda"), (("cuda", "cuda"), "cuda"),
        (("cpu", "cuda"), "reference"), (("mps",), "reference"),
    ],
)  # fmt: skip
def test_auto_is_the_devices_own_backend_and_the_reference_where_there_is_none(
    kinds: tuple[str, ...], name: str
) -> None:
    assert automatic(kinds) == name


@pytest.mark.parametrize(
    ("cards", "path"), [([], "reference"), ([(7, 5)], "reference"), ([(9, 0)], "triton"), ([(10, 0)], "triton")]
)
def test_the_path_follows_the_card(monkeypatch: pytest.MonkeyPatch, cards: list[tuple[int, int]], path: str) -> None:
    monkeypatch.setattr(capability, "interpreted", lambda: False)
    monkeypatch.setattr(capability, "_capabilities", lambda: cards)
    assert capability.path().name == path


def test_where_the_kernels_cannot_run_the_reference_does_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(capability, "path", lambda: capability.Path("reference", "Triton is not installed"))
    made = plugin._cuda()
    assert made.name == "reference"
    assert "Triton is not installed" in caplog.text
    made.close()


def test_it_is_registered_as_any_plugin_is() -> None:
    assert plugins.backends()["cuda"].plugin.name == "mx_cuda"
