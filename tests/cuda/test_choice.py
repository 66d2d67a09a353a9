"""Which backend ``auto`` is, and what ``cuda`` is on this machine."""

from __future__ import annotations

import pytest

from mx_cuda import capability, plugin
from mx_plugin import plugins
from mx_plugin.execution.backend_choice import automatic


@pytest.mark.parametrize(
    ("kinds", "name"),
    [((), "cpu"), (("cpu",), "cpu"), (("cuda",), "reference"), (("cpu", "cuda"), "reference")],
)
def test_auto_takes_no_kernels_that_no_card_has_run(kinds: tuple[str, ...], name: str) -> None:
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
