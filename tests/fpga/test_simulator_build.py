"""Building the simulator: once, by one process, with a message that helps when it fails. Verilator is a script here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mx_fpga.simulator_build import Model, SimulatorError, build, cache
from mx_fpga.verilator import VerilatorMissing, find

TINY = Model(rows=1, columns=1, memory_bytes=1 << 16, blocks=16, handles=4)


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Takes the place of Verilator: says its version, and then does what a test wants."""
    path = tmp_path / "verilator"
    monkeypatch.setenv("MX_VERILATOR", str(path))
    monkeypatch.setenv("MX_FPGA_CACHE", str(tmp_path / "cache"))
    write(path, "exit 1")
    try:
        find()
    except VerilatorMissing as missing:  # no g++, make or perl
        pytest.skip(str(missing))
    return path


def write(script: Path, body: str, version: str = "1") -> None:
    """``$folder`` and ``$program`` in ``body`` are where to build and what."""
    text = """\
        #!/bin/sh
        if [ "$1" = --version ]; then echo "Verilator {version}"; exit; fi
        while [ $# -gt 0 ]; do
          case $1 in --Mdir) folder=$2 ;; -o) program=$2 ;; esac
          shift
        done
        {body}
    """
    script.write_text(textwrap.dedent(text).format(version=version, body=body))
    script.chmod(0o755)


def test_a_failed_build_shows_the_end_of_its_log(script: Path) -> None:
    write(script, "seq 1 500; echo 'no such module: mx_nothing' >&2; exit 3")
    with pytest.raises(SimulatorError, match=r"failed \(3\), see (?s:.*)\n500\nno such module: mx_nothing$") as failed:
        build(TINY)
    assert "\n300\n" not in str(failed.value)
    (log,) = cache().glob("sim-*/*.log")
    assert str(log) in str(failed.value) and "no such module" in log.read_text()
    # And it is tried again.
    write(script, "touch $folder/$program")
    assert build(TINY).is_file()


def test_it_is_built_once_and_said_so(script: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(script, "echo built >> $0.count; touch $folder/$program")
    program = build(TINY)
    said = capfd.readouterr().err
    assert "building the simulated board, 1 x 1 dot units" in said and "built in" in said
    assert program.is_relative_to(script.parent / "cache")
    assert build(TINY) == program and capfd.readouterr().err == ""
    assert Path(f"{script}.count").read_text() == "built\n"
    assert {p.name for p in program.parent.iterdir()} == {program.name, program.name + ".log", "lock"}


def test_another_model_or_version_is_another_program(script: Path) -> None:
    write(script, "touch $folder/$program")
    first = build(TINY)
    others = [replace(TINY, columns=2), replace(TINY, name="other"), replace(TINY, serial=True)]
    programs = {build(model) for model in others}
    write(script, "touch $folder/$program", version="2")
    assert len({first, *programs, build(TINY)}) == 5


def test_what_is_built_needs_no_verilator(script: Path) -> None:
    write(script, "touch $folder/$program")
    program = build(TINY)
    script.unlink()
    assert build(TINY) == program
    with pytest.raises(VerilatorMissing):
        build(replace(TINY, columns=2))


BUILDER = """
    from mx_fpga.simulator_build import build
    from tests.fpga.test_simulator_build import TINY
    print("building", flush=True)
    build(TINY)
"""


def builder(repository: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(BUILDER)],
        cwd=repository, env=dict(os.environ), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_two_processes_build_it_once(script: Path, repository: Path) -> None:
    write(script, "echo built >> $0.count; sleep 2; touch $folder/$program")
    both = [builder(repository), builder(repository)]
    said = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert Path(f"{script}.count").read_text() == "built\n"


def test_a_killed_builder_does_not_block_the_next(script: Path, repository: Path) -> None:
    write(script, "echo $$ > $0.pid; mv $0.pid $0.started; exec sleep 600")
    with builder(repository) as first:
        while not Path(f"{script}.started").exists():
            assert first.poll() is None
            time.sleep(0.05)
        first.send_signal(signal.SIGKILL)
    os.kill(int(Path(f"{script}.started").read_text()), signal.SIGKILL)  # a real compiler ends by itself
    write(script, "touch $folder/$program")
    assert build(TINY).is_file()


def test_names_that_do_not_fit_hello_are_refused(script: Path) -> None:
    for name in ("", "seventeen letters", "grün", 'a"b', "a\\b", "a\tb"):
        with pytest.raises(ValueError, match="name must have"):
            build(replace(TINY, name=name))
    assert not cache().exists()
