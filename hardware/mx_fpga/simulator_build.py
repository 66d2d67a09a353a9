"""Building the simulated board: RTL and harness, compiled by Verilator once per set of sources and parameters.

Programs are kept in the user's cache: ``MX_FPGA_CACHE``, or ``mx_fpga`` in ``XDG_CACHE_HOME`` (by default ~/.cache).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from .verilator import VerilatorMissing, find

CACHE_VARIABLE = "MX_FPGA_CACHE"
Progress = Callable[[str], None]

_PACKAGES = ("mx_constants.sv", "mx_types.sv", "mx_crc32.sv")
_PROGRAM = "mx_board_simulator"
_LOG_LINES = 25
# -O1: a third less to wait for than -O2, and 3% slower.
_FLAGS = ("--cc", "--exe", "--build", "-Wno-fatal", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert")
_COMPILER_FLAGS = ("-O1",)


class SimulatorError(RuntimeError):
    """The simulated board could not be built, did not start or has ended; the message says why."""


@dataclass(frozen=True)
class Model:
    """What is simulated.

    ``rows`` x ``columns`` dot units; ``memory_bytes`` of elements (a power of two), ``blocks`` in a row and ``handles``
    at most. ``serial``: a bit-level UART instead of bytes, 25 to 70 times slower. ``clock_hz`` only turns cycles into
    seconds: HELLO states it, and ``name`` (1..16 characters of ASCII).
    """

    rows: int = 2
    columns: int = 2
    memory_bytes: int = 16 << 20
    blocks: int = 256
    handles: int = 256
    clock_hz: int = 100_000_000
    serial: bool = False
    name: str = "simulated"

    @property
    def words(self) -> int:
        """Words of the element memory.

        Raises:
            ValueError: the memory is not a power of two of words, or a dimension is not what the RTL can be.
        """
        words = self.memory_bytes // (32 * self.rows) if self.rows > 0 else 0
        if self.rows not in (1, 2, 4) or not 1 <= self.columns <= 8:
            raise ValueError(f"{self.rows} x {self.columns} dot units; the RTL has 1, 2 or 4 rows and 1..8 columns")
        if words < 16 or words & (words - 1) or words * 32 * self.rows != self.memory_bytes:
            raise ValueError(
                f"memory_bytes must be a power of two of at least {16 * 32 * self.rows}, not {self.memory_bytes}"
            )
        for field, value, most in (("blocks", self.blocks, 4096), ("handles", self.handles, 256)):
            if not 2 <= value <= most or value & (value - 1):
                raise ValueError(f"{field} must be a power of two in 2..{most}, not {value}")
        text = self.name
        if not 1 <= len(text) <= 16 or not text.isascii() or not text.isprintable() or '"' in text or "\\" in text:
            raise ValueError(f"name must have 1..16 printable characters of ASCII, without quotes, not {text!r}")
        return words


def hardware() -> Path:
    """The folder that holds ``rtl`` and ``sim``: beside the package in the repository, inside it in a wheel.

    Raises:
        SimulatorError: neither is there.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "hardware", package.parent):
        if (folder / "rtl" / "mx_core.sv").is_file():
            return folder
    raise SimulatorError(f"no RTL beside {package}: reinstall mx-plugin, its wheel carries it")


def rtl_sources() -> list[Path]:
    """SystemVerilog files with the generic leaves, packages first."""
    rtl = hardware() / "rtl"
    modules = sorted(p for p in (*rtl.glob("*.sv"), *(rtl / "generic").glob("*.sv")) if p.name not in _PACKAGES)
    return [*(rtl / name for name in _PACKAGES), *modules]


def cache() -> Path:
    """Where built models are kept; may be deleted at any time."""
    by_hand = os.environ.get(CACHE_VARIABLE)
    return Path(by_hand) if by_hand else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mx_fpga"


def say(text: str) -> None:
    """Progress goes to standard error: building takes long enough to be taken for a hang."""
    print(f"mx_fpga: {text}", file=sys.stderr, flush=True)


def build(model: Model | None = None, progress: Progress = say) -> Path:
    """Path of the simulator's program for ``model``; compiled unless the cache holds it.

    Processes that want the same program build it once: the others wait. ``progress`` is told what takes time.

    Raises:
        VerilatorMissing: nothing to build with; the message says what to install.
        SimulatorError: the build failed; the message ends with the end of its log.
        ValueError: the RTL cannot be what ``model`` says.
    """
    model = model or Model()
    _ = model.words
    sources = [*rtl_sources(), *sorted((hardware() / "sim").glob("*.[ch]pp"))]
    key = hashlib.sha256(repr((sorted(asdict(model).items()), _FLAGS, _COMPILER_FLAGS)).encode())
    for path in sources:
        key.update(path.name.encode() + path.read_bytes())
    stem = f"sim-{key.hexdigest()[:20]}"
    try:
        verilator, environment = find()
    except VerilatorMissing:
        # What is built needs no Verilator to run.
        built = sorted(cache().glob(f"{stem}-*/{_PROGRAM}"))
        if not built:
            raise
        return built[0]
    folder = cache() / f"{stem}-{_version(verilator, environment)}"
    program = folder / _PROGRAM
    if not program.is_file():
        with _locked(folder, progress):
            if not program.is_file():
                _compile(model, sources, program, verilator, environment, progress)
    return program


def _version(verilator: str, environment: dict[str, str]) -> str:
    """Eight characters that differ between versions of Verilator."""
    ran = subprocess.run([verilator, "--version"], env=environment, capture_output=True, check=False)
    if ran.returncode:
        raise SimulatorError(f"{verilator} --version failed ({ran.returncode}): {ran.stderr.decode(errors='replace')}")
    return hashlib.sha256(ran.stdout).hexdigest()[:8]


def _compile(
    model: Model, sources: list[Path], program: Path, verilator: str, environment: dict[str, str], progress: Progress
) -> None:
    start = time.monotonic()
    progress(f"building the simulated board, {model.rows} x {model.columns} dot units; once, about a minute")
    log = program.with_suffix(".log")
    with tempfile.TemporaryDirectory(dir=program.parent) as scratch:
        command = [verilator, *_arguments(model, sources, scratch)]
        if shutil.which("nice"):
            command = ["nice", "-n", "10", *command]
        with log.open("wb") as output:
            ran = subprocess.run(
                command, env=environment, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False
            )
        if ran.returncode:
            end = "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
            raise SimulatorError(f"building the simulated board failed ({ran.returncode}), see {log}; its end:\n{end}")
        os.replace(Path(scratch) / _PROGRAM, program)
    progress(f"built in {time.monotonic() - start:.0f} s: {program}")


def _arguments(model: Model, sources: list[Path], scratch: str) -> list[str]:
    """Verilator's, for a build in the folder ``scratch``."""
    parameters: dict[str, int | str] = {
        "ROWS": model.rows, "COLUMNS": model.columns, "WORDS": model.words, "BLOCKS": model.blocks,
        "HANDLES": model.handles, "CLOCK_HZ": model.clock_hz, "NAME": f'"{model.name}"',
    }  # fmt: skip
    defines = [*_COMPILER_FLAGS, f"-DMX_CLOCK_HZ={model.clock_hz}", f"-I{hardware() / 'sim'}"]
    if model.serial:
        parameters["BAUD"] = model.clock_hz // 8
        defines += ["-DMX_SERIAL", f"-DMX_BAUD={model.clock_hz // 8}"]
    return [
        *_FLAGS, "-j", str(min(os.cpu_count() or 1, 4)), "--Mdir", scratch, "--prefix", "Vtop", "-o", _PROGRAM,
        "--top-module", "mx_board" if model.serial else "mx_core",
        *(f"-G{name}={value}" for name, value in parameters.items()),
        "-CFLAGS", " ".join(defines), *(str(path) for path in sources if path.suffix != ".hpp"),
    ]  # fmt: skip


@contextmanager
def _locked(folder: Path, progress: Progress) -> Iterator[None]:
    """One process at a time builds into ``folder``; the lock ends with its process, whatever way that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("another process is building the simulated board: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
