"""Compiles the native kernels with the system's C++ compiler: ``python -m mx_cpu.build [--sanitize] [TARGET]``.

The same function runs in the package's build hook. It imports nothing but the standard library, so that a
build needs neither torch nor mx_plugin.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
SOURCES = PACKAGE / "native"
LIBRARY = PACKAGE / "libmx_cpu.so"

COMPILERS = ("c++", "g++", "clang++")
"""Looked for in this order after the environment's CXX."""

FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-ffp-contract=off", "-fwrapv"),
    *("-Wall", "-Wextra", "-Wno-psabi", "-Wno-maybe-uninitialized", "-Wno-unknown-warning-option"),
)
"""No fused or reordered arithmetic: casts must have the reference's bits."""

_AVX2 = "-mavx2 -mfma -mf16c"
_AVX512 = (
    f"{_AVX2} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vbmi -mavx512vnni -mavx512bf16 "
    "-mprefer-vector-width=512"
)
LEVELS = {"scalar": "", "avx2": _AVX2, "avx512": _AVX512, "amx": f"{_AVX512} -mamx-tile -mamx-bf16"}
"""Instruction-set flags of each level; the levels beyond ``scalar`` exist on x86-64 only."""

SANITIZE = (
    *("-O1", "-g1", "-fno-omit-frame-pointer", "-fno-wrapv"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
)
"""Flags of the build that ends the process at a read or write out of bounds or at undefined behaviour.

Without ``-fwrapv``: no kernel counts on signed overflow, so here it is an error.
"""


class BuildError(RuntimeError):
    """The kernels cannot be compiled here; the message says why and what to install."""


def source_files() -> list[Path]:
    """The C++ files, headers included, sorted by name."""
    return sorted(path for path in SOURCES.iterdir() if path.suffix in (".cpp", ".hpp"))


def source_hash() -> str:
    """Names the sources; the library carries it, so that an old one is not taken for a new one."""
    digest = hashlib.sha256()
    for path in source_files():
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def find_compiler() -> list[str]:
    """The compiler's command.

    Raises:
        BuildError: there is none.
    """
    chosen = os.environ.get("CXX")
    if chosen:
        return shlex.split(chosen)
    for name in COMPILERS:
        found = shutil.which(name)
        if found:
            return [found]
    raise BuildError(f"no C++ compiler found (CXX is not set; tried {', '.join(COMPILERS)}): install g++ or clang++")


def compile_library(target: Path = LIBRARY, extra: Sequence[str] = ()) -> Path:
    """Compile and link into ``target``; ``extra`` flags go to every step (e.g. -fsanitize=address,undefined).

    Raises:
        BuildError: no compiler, or it failed; the message ends with what it said.
    """
    compiler = find_compiler()
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    levels = LEVELS if x86 else {"scalar": ""}
    common = [*FLAGS, *extra, *(["-DMX_X86"] if x86 else []), f'-DMX_SOURCE_HASH="{source_hash()}"']
    with tempfile.TemporaryDirectory() as folder:
        jobs = [
            ("level.cpp", Path(folder) / f"level_{name}.o", [f"-DMX_LEVEL={name}", *flags.split()])
            for name, flags in levels.items()
        ]
        jobs += [(name, Path(folder) / f"{name}.o", []) for name in ("dispatch.cpp", "parallel.cpp")]
        commands = [
            [*compiler, *common, *flags, "-c", str(SOURCES / source), "-o", str(out)] for source, out, flags in jobs
        ]
        with ThreadPoolExecutor(min(len(commands), os.cpu_count() or 1)) as pool:
            list(pool.map(_run, commands))
        linked = Path(folder) / LIBRARY.name
        _run([*compiler, "-shared", "-pthread", *extra, *(str(out) for _, out, _ in jobs), "-o", str(linked)])
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside its place first: a process that has the old one loaded keeps it.
        fresh = target.with_suffix(".new")
        shutil.copyfile(linked, fresh)
        os.replace(fresh, target)
    return target


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"the compiler cannot be started: {error}; set CXX or install g++") from error
    if done.returncode:
        raise BuildError(f"{shlex.join(command)}\nfailed with status {done.returncode}:\n{done.stderr[-4000:]}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Build; exit status 1 with the reason if that fails."""
    parser = argparse.ArgumentParser(prog="python -m mx_cpu.build", description="Compile the native CPU kernels.")
    parser.add_argument("target", nargs="?", type=Path, help="the file to make; default: the one that is loaded")
    parser.add_argument("--sanitize", action="store_true", help="with AddressSanitizer and UBSan, into TARGET")
    asked = parser.parse_args(arguments)
    if asked.sanitize and asked.target is None:
        parser.error("--sanitize needs TARGET: only processes that preload the sanitizers can load such a library")
    try:
        print(compile_library(asked.target or LIBRARY, SANITIZE if asked.sanitize else ()))
    except BuildError as error:
        print(f"mx_cpu.build: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
