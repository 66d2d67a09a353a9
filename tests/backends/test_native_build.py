"""The library: how it is chosen, forced, and missed."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mx_cpu import build, checks, library, plugin
from mx_cpu.library import NativeUnavailable
from mx_cpu.reference import ReferenceBackend


@pytest.fixture
def unbuilt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As where no compiler was found."""
    monkeypatch.delenv(library.LIBRARY_VARIABLE, raising=False)
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "libmx_cpu.so")
    library.library.cache_clear()
    monkeypatch.setattr(library.library, "cache_clear", library.library.cache_clear, raising=False)


@pytest.fixture(autouse=True)
def _loaded_again() -> object:
    yield
    library.library.cache_clear()


@pytest.mark.usefixtures("unbuilt")
def test_without_a_library_cpu_is_the_reference_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="mx_cpu"):
        assert isinstance(plugin._cpu(), ReferenceBackend)
    assert "many times slower" in caplog.text and "python -m mx_cpu.build" in caplog.text
    (line,) = [check for check in checks.implementation_checks() if check.name == "mx_cpu implementation"]
    assert line.status == "warn" and "python -m mx_cpu.build" in line.remedy


def test_a_library_that_the_environment_names_is_loaded_or_missed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if not library.available():
        pytest.skip("no native kernels")
    other = tmp_path / "other.so"
    monkeypatch.setenv(library.LIBRARY_VARIABLE, str(other))
    library.library.cache_clear()
    with pytest.raises(NativeUnavailable, match="MX_CPU_LIBRARY"):
        library.library()
    other.symlink_to(build.LIBRARY)
    (line,) = [check for check in checks.implementation_checks() if check.name == "mx_cpu implementation"]
    assert line.status == "ok" and str(other) in line.detail


def test_nothing_of_a_level_runs_when_the_library_is_loaded() -> None:
    """A constructor in a level's file would end every process on a processor without its instructions."""
    if not library.available() or not (nm := shutil.which("nm")):
        pytest.skip("no native kernels")
    symbols = subprocess.run([nm, build.LIBRARY], capture_output=True, text=True, check=True).stdout
    assert "GLOBAL__sub_I" in symbols, "the library's symbols tell of constructors: dispatch has one"
    assert "GLOBAL__sub_I_level" not in symbols


def test_sanitizers_are_built_into_a_library_that_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build.main(["--sanitize"])
    assert "needs TARGET" in capsys.readouterr().err


def test_no_compiler_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build.BuildError, match=r"install g\+\+ or clang"):
        build.find_compiler()


def test_a_failing_compiler_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", f"{sys.executable} -c 'import sys; sys.exit(\"no such option\")'")
    with pytest.raises(build.BuildError, match="no such option"):
        build.compile_library(tmp_path / "libmx_cpu.so")
    assert not (tmp_path / "libmx_cpu.so").exists()


def test_the_environment_forces_a_level_and_refuses_an_unknown_one() -> None:
    if not library.available():
        pytest.skip("no native kernels")
    code = "from mx_cpu.library import library; print(library().level)"
    for forced, expected in (("scalar", "scalar"), ("avx1024", "did you mean")):
        environment = {**os.environ, library.ISA_VARIABLE: forced}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert expected in done.stdout + done.stderr


def test_an_out_of_date_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    if not library.available():
        pytest.skip("no native kernels")
    monkeypatch.setattr(library, "source_hash", lambda: "other")
    library.library.cache_clear()
    with pytest.raises(NativeUnavailable, match="rebuild"):
        library.library()


@pytest.mark.slow
@pytest.mark.parametrize("compiler", build.COMPILERS)
def test_every_compiler_that_is_looked_for_builds_kernels_that_pass(compiler: str, tmp_path: Path) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed (on Debian: apt-get install g++ clang)")
    made = tmp_path / "libmx_cpu.so"
    environment = {**os.environ, "CXX": compiler, library.LIBRARY_VARIABLE: str(made)}
    subprocess.run([sys.executable, "-m", "mx_cpu.build", str(made)], env=environment, check=True)
    files = [str(Path(__file__).with_name(f"test_native_{name}.py")) for name in ("linear", "casts")]
    subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "not slow", *files], env=environment, check=True)
