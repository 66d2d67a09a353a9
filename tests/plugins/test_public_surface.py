"""What plugins and users may rely on is written down: names and signatures, held against public_surface.txt."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import HfArgumentParser

from mx_plugin import MXConfig
from tests.plugins import public_surface

pytest.importorskip("trl")  # mx_trl's names stand there too


def test_the_public_surface_is_the_stored_one() -> None:
    _, before = public_surface.stored()
    gone, new = public_surface.changes(before, public_surface.surface())
    assert not (gone or new), public_surface.explained(gone, new)


def test_it_reads_what_the_source_says_even_after_a_parser_of_transformers_put_classes_in_place_of_names() -> None:
    HfArgumentParser([MXConfig])
    assert "mx_plugin.MXConfig.policy: str = 'C'" in public_surface.surface()


@pytest.mark.parametrize(
    "line",
    [
        "mx_plugin.interfaces.Backend.counters(self) -> 'Counters' (abstract)",
        "mx_plugin.interfaces.Measurement.joules: float | None",
        "mx_plugin.hookspecs.mx_register_meters(register: 'RegisterFactory') -> 'None'",
        "class mx_plugin.errors.PluginError(MXError, RuntimeError)",
        "mx_plugin.interfaces.Handle = typing.Any",
    ],
)
def test_methods_fields_hooks_and_errors_stand_in_it(line: str) -> None:
    assert line in public_surface.stored()[1]


def test_a_name_that_went_is_told_as_a_break_and_a_new_one_as_an_addition() -> None:
    gone = public_surface.explained(["f(x)"], ["f(x, y)"])
    assert "-f(x)\n+f(x, y)" in gone
    assert "raise the major of INTERFACE_VERSION" in gone
    assert "raise the minor" in public_surface.explained([], ["g()"])


def test_the_command_refuses_a_break_in_the_same_major_and_writes_additions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "public_surface.txt"
    monkeypatch.setattr(public_surface, "STORED", file)
    monkeypatch.setattr(public_surface, "surface", lambda: ["f(x, y)"])
    major, minor = public_surface.INTERFACE_VERSION
    file.write_text(f"# interface {major}.{minor}\nf(x)\n", encoding="utf-8")
    assert public_surface.main([]) == 1
    assert "refused" in capsys.readouterr().err
    assert public_surface.stored()[1] == ["f(x)"]
    monkeypatch.setattr(public_surface, "INTERFACE_VERSION", (major + 1, 0))
    assert public_surface.main([]) == 0
    assert public_surface.stored() == ((major + 1, 0), ["f(x, y)"])
    monkeypatch.setattr(public_surface, "surface", lambda: ["f(x, y)", "g()"])
    assert public_surface.main([]) == 0
    assert public_surface.stored()[1] == ["f(x, y)", "g()"]
