"""Builds an RTL module with Verilator and runs cocotb tests on it; models are kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mx_fpga.verilator import VerilatorMissing, find

REPOSITORY = Path(__file__).resolve().parents[3]
RTL = REPOSITORY / "hardware" / "rtl"
PACKAGES = ("mx_constants.sv", "mx_types.sv", "mx_crc32.sv")
BUILD = ["-Wno-fatal", "--assert", "-O3", "--x-assign", "fast", "-CFLAGS", "-O1"]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mx_fpga" / "tests"


def sources() -> list[Path]:
    """All RTL, packages first, with the generic leaves."""
    modules = sorted(p for p in (*RTL.glob("*.sv"), *(RTL / "generic").glob("*.sv")) if p.name not in PACKAGES)
    return [*(RTL / name for name in PACKAGES), *modules]


def run_cocotb(
    top: str, test_module: str, tmp_path: Path, parameters: dict[str, Any] | None = None,
    harness: Sequence[Path] = (), **environment: str,
) -> None:  # fmt: skip
    """Run every test of ``tests/fpga/rtl/<test_module>.py`` on ``top``; a failing one fails the caller.

    ``harness``: sources besides the RTL. Assertions of both are checked in every cycle.

    Skips, saying how to install it, where Verilator or cocotb is absent.
    """
    try:
        _, tools = find()
    except VerilatorMissing as missing:
        pytest.skip(str(missing))
    runner_module = pytest.importorskip("cocotb_tools.runner", reason="no cocotb: pip install 'mx-plugin[sim]'")
    used = [*sources(), *harness]
    # What is kept names files of the environment that built it: make asks for them, and another one may be gone.
    key = hashlib.sha256(repr((sorted((parameters or {}).items()), BUILD, sys.prefix)).encode())
    for path in used:
        key.update(path.read_bytes())
    build = CACHE / f"{top}-{key.hexdigest()[:16]}"
    before = dict(os.environ)
    os.environ.update(tools)
    try:
        runner = _runner(runner_module)
        runner.build(
            sources=used, hdl_toplevel=top, build_dir=build, parameters=parameters or {}, always=False,
            build_args=BUILD,
            log_file=tmp_path / "build.log",
        )  # fmt: skip
        results = runner.test(
            hdl_toplevel=top, test_module=f"tests.fpga.rtl.{test_module}", build_dir=build, test_dir=tmp_path,
            extra_env={"OMP_NUM_THREADS": "1", **environment}, log_file=tmp_path / "test.log",
        )  # fmt: skip
        passed, failed = runner_module.get_results(results)
    except (SystemExit, RuntimeError) as error:
        pytest.fail(f"{top}: {error}\n{_tail(tmp_path)}")
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert passed > 0 and failed == 0, f"{failed} of {passed} failed\n{_tail(tmp_path)}"


def _runner(runner_module: Any) -> Any:
    """cocotb's runner, but with the ports of the top visible only: a model of a tile with every signal visible takes
    g++ ten minutes."""

    class Runner(runner_module.Verilator):  # type: ignore[misc, name-defined]
        def _build_command(self) -> Any:
            commands = super()._build_command()
            at = commands[0].index("--public-flat-rw")
            return [[*commands[0][:at], "--public-depth", "1", *commands[0][at + 1 :]], *commands[1:]]

    return Runner()


def _tail(folder: Path) -> str:
    logs = [p for p in (folder / "test.log", folder / "build.log") if p.exists()]
    return "\n".join(line for p in logs[:1] for line in p.read_text(errors="replace").splitlines()[-60:])
