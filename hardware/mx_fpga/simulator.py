"""The simulated board: the RTL compiled by Verilator behind a pseudo terminal and a loopback TCP port.

A model is built once per set of sources and parameters, into the user's cache (``XDG_CACHE_HOME``, by default
~/.cache), in one or two minutes.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from .verilator import find

_log = logging.getLogger("mx_fpga")
_PACKAGES = ("mx_constants.sv", "mx_types.sv", "mx_crc32.sv")
_PROGRAM = "mx_board_simulator"


class SimulatorError(RuntimeError):
    """The simulated board could not be built or did not start; the message says why and where its log lies."""


@dataclass(frozen=True)
class Model:
    """What is simulated.

    ``rows`` x ``columns`` dot units; ``memory_bytes`` of elements (a power of two), ``blocks`` in a row and ``handles``
    at most. ``serial``: a bit-level UART instead of bytes, 25 to 70 times slower. ``clock_hz`` only turns cycles into
    seconds: HELLO states it.
    """

    rows: int = 2
    columns: int = 2
    memory_bytes: int = 16 << 20
    blocks: int = 256
    handles: int = 256
    clock_hz: int = 100_000_000
    serial: bool = False

    @property
    def words(self) -> int:
        """Words of the element memory.

        Raises:
            ValueError: the memory is not a power of two of words, or a dimension is not what the RTL can be.
        """
        words = self.memory_bytes // (32 * self.rows)
        if self.rows not in (1, 2, 4) or not 1 <= self.columns <= 8:
            raise ValueError(f"{self.rows} x {self.columns} dot units; the RTL has 1, 2 or 4 rows and 1..8 columns")
        if words < 16 or words & (words - 1) or words * 32 * self.rows != self.memory_bytes:
            raise ValueError(f"memory_bytes must be a power of two of at least {16 * 32 * self.rows}")
        for name, value, most in (("blocks", self.blocks, 4096), ("handles", self.handles, 256)):
            if not 2 <= value <= most or value & (value - 1):
                raise ValueError(f"{name} must be a power of two in 2..{most}, not {value}")
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
    """Where built models are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mx_fpga"


def build(model: Model | None = None) -> Path:
    """Path of the simulator's program for ``model``; compiled unless the cache holds it.

    Raises:
        VerilatorMissing: nothing to build with; the message says what to install.
        SimulatorError: the build failed.
        ValueError: the RTL cannot be what ``model`` says.
    """
    model = model or Model()
    words = model.words
    sources = [*rtl_sources(), *sorted((hardware() / "sim").glob("*.[ch]pp"))]
    key = hashlib.sha256(repr(sorted(asdict(model).items())).encode())
    for path in sources:
        key.update(path.name.encode() + path.read_bytes())
    folder = cache() / f"sim-{key.hexdigest()[:20]}"
    program = folder / _PROGRAM
    with _locked(folder):
        if not program.is_file():
            _compile(model, words, sources, program)
    return program


def _compile(model: Model, words: int, sources: list[Path], program: Path) -> None:
    verilator, environment = find()
    _log.info("building the simulated board with %s (once, one or two minutes)", verilator)
    baud = model.clock_hz // 8
    parameters = {
        "ROWS": model.rows, "COLUMNS": model.columns, "WORDS": words, "BLOCKS": model.blocks,
        "HANDLES": model.handles, "CLOCK_HZ": model.clock_hz, "NAME": '"simulated"',
    }  # fmt: skip
    defines = [f"-DMX_CLOCK_HZ={model.clock_hz}", f"-I{hardware() / 'sim'}", "-O2"]
    if model.serial:
        parameters["BAUD"] = baud
        defines += ["-DMX_SERIAL", f"-DMX_BAUD={baud}"]
    with tempfile.TemporaryDirectory(dir=program.parent) as scratch:
        command = [
            verilator, "--cc", "--exe", "--build", "-Wno-fatal", "-O3", "--x-assign", "fast", "--x-initial", "fast",
            "--noassert", "--Mdir", scratch, "--prefix", "Vtop", "-o", _PROGRAM,
            "--top-module", "mx_board" if model.serial else "mx_core",
            *(f"-G{name}={value}" for name, value in parameters.items()),
            "-CFLAGS", " ".join(defines), *(str(path) for path in sources if path.suffix != ".hpp"),
        ]  # fmt: skip
        log = program.with_suffix(".log")
        with log.open("wb") as output:
            nice = ["nice", "-n", "10"] if shutil.which("nice") else []
            ran = subprocess.run(
                [*nice, *command], env=environment, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                check=False,
            )  # fmt: skip
        if ran.returncode:
            raise SimulatorError(f"building the simulated board failed ({ran.returncode}): see {log}")
        os.replace(Path(scratch) / _PROGRAM, program)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time builds into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Simulator:
    """A running simulated board. It ends with :meth:`stop`, or with this process, whatever way that ends.

    ``url`` is the path of a pseudo terminal, ``socket_url`` the same board over loopback TCP: both are what
    ``serial.serial_for_url`` takes. ``modelled_watts``: let the board report energy, marked as modelled, from that
    constant power and its cycles; without, its energy source is none.
    """

    def __init__(self, model: Model | None = None, *, port: int = 0, modelled_watts: float | None = None) -> None:
        """Build if need be, start, and wait for the URLs.

        Raises:
            VerilatorMissing, SimulatorError, ValueError: as :func:`build`; or the program did not start.
        """
        program = build(model)
        command = [str(program), "--port", str(port), "--parent", str(os.getpid())]
        if modelled_watts is not None:
            command += ["--modelled-watts", repr(float(modelled_watts))]
        # A session of its own: Ctrl-C reaches the parent, which may still want the board for its last words.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        lines = self._first_lines(2, timeout=30.0)
        self.url, self.socket_url = lines

    def _first_lines(self, count: int, timeout: float) -> list[str]:
        stdout = self._process.stdout
        assert stdout is not None
        end, text = time.monotonic() + timeout, b""
        while text.count(b"\n") < count:
            readable, _, _ = select.select([stdout], [], [], max(end - time.monotonic(), 0))
            piece = os.read(stdout.fileno(), 4096) if readable else b""
            if not piece:
                self._process.kill()
                _, errors = self._process.communicate()
                said = errors.decode(errors="replace").strip() or f"nothing within {timeout} s"
                raise SimulatorError(f"the simulated board did not start: {said}")
            text += piece
        return text.decode().splitlines()[:count]

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def stop(self, timeout: float = 5.0) -> None:
        """End the board; idempotent. Killed if it does not end within ``timeout`` seconds."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def __enter__(self) -> Simulator:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
