"""The simulated board as a process: started, spoken to besides its port, and stopped.

It ends with :meth:`Simulator.stop`, or with the process that started it, whatever way that one ends.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import threading
import time
import weakref
from dataclasses import dataclass
from typing import Any

from .simulator_build import CACHE_VARIABLE, Model, Progress, SimulatorError, build, cache, hardware, rtl_sources, say

__all__ = [
    "CACHE_VARIABLE", "Model", "Simulator", "SimulatorError", "Stats",
    "build", "cache", "hardware", "rtl_sources", "start",
]  # fmt: skip

TRANSPORTS = ("pty", "tcp")
DEFAULT_WATTS = 1.0
"""The power of ``energy="modelled"``: a round figure that stands for no device."""

_ANSWER_S = 30.0


@dataclass(frozen=True)
class Stats:
    """What a simulator did since it started.

    ``cycles``: of the board's clock, which stands still while the board has nothing to do. ``busy_seconds``: of wall
    time in which they were simulated. ``connections``: how often a host opened the port. ``connected``: one has it.
    ``idle``: the board waits for a byte.
    """

    cycles: int
    busy_seconds: float
    connections: int
    connected: bool
    idle: bool


class Simulator:
    """A running simulated board.

    ``url`` is what ``serial.serial_for_url`` takes: the path of a pseudo terminal, which only this user may open, or
    ``socket://127.0.0.1:PORT``, which is not authenticated: every user of this machine may connect. ``socket_url`` is
    that one, or None. One host at a time, on whichever it comes: the other port is busy meanwhile.

    Args:
        model: what is simulated.
        pty: open a pseudo terminal.
        port: open this TCP port of the loopback interface; 0 takes a free one, None opens none.
        modelled_watts: let the board report energy, marked as modelled, from that constant power and its cycles;
            without, its energy source is none.
        max_idle_s: end after so many seconds without a byte from a host.
        progress: is told what takes time; by default standard error.

    Raises:
        VerilatorMissing, SimulatorError, ValueError: as :func:`build`; or the program did not start.
    """

    def __init__(
        self, model: Model | None = None, *, pty: bool = True, port: int | None = None,
        modelled_watts: float | None = None, max_idle_s: float | None = None, progress: Progress = say,
    ) -> None:  # fmt: skip
        if not pty and port is None:
            raise ValueError("pty=False without a port: nothing to connect to; port=0 takes a free one")
        if port is not None and not 0 <= port <= 65535:
            raise ValueError(f"port must lie in 0..65535, not {port}; 0 takes a free one")
        if modelled_watts is not None and not modelled_watts > 0:
            raise ValueError(f"modelled_watts must be above 0, not {modelled_watts}; None for no energy source")
        command = [str(build(model, progress)), "--parent", str(os.getpid()), "--pty", str(int(pty))]
        if port is not None:
            command += ["--port", str(port)]
        if modelled_watts is not None:
            command += ["--modelled-watts", repr(float(modelled_watts))]
        if max_idle_s is not None:
            command += ["--max-idle", repr(float(max_idle_s))]
        # The kernel watches the thread that starts it. Only the main one lives as long as the process.
        command += ["--die-with-thread", str(int(threading.current_thread() is threading.main_thread()))]
        # A session of its own: Ctrl-C reaches the parent, which may still want the board for its last words.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        self._end = weakref.finalize(self, _end, self._process, os.getpid())
        self._lock = threading.Lock()
        try:
            self._urls = self._answer("start")
        except BaseException:
            self._end()
            raise

    @property
    def url(self) -> str:
        """Of the pseudo terminal if there is one, else of the TCP port; "" while unplugged."""
        return self._urls["pty"] or self._urls["socket"]

    @property
    def socket_url(self) -> str | None:
        return self._urls["socket"] or None

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def stats(self) -> Stats:
        """Raises SimulatorError where it has ended, as all of the following."""
        return Stats(**self._say("stats"))

    def reset(self) -> None:
        """Press the board's reset button: it forgets weights, activations, counters and what it was about to say."""
        self._say("reset")

    def pause(self) -> None:
        """Stop the board's clock: it answers no more, though bytes for it are accepted."""
        self._say("pause")

    def resume(self) -> None:
        """Let the clock run again."""
        self._say("resume")

    def unplug(self) -> None:
        """Pull the cable: hosts see the port vanish. The board keeps what it holds."""
        self._urls = self._say("unplug")

    def plug(self) -> None:
        """Put the cable back. A TCP port is the same again; a pseudo terminal may have another path: see ``url``."""
        self._urls = self._say("plug")

    def stop(self) -> None:
        """End the board; idempotent."""
        self._end()

    close = stop

    def __enter__(self) -> Simulator:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _say(self, word: str) -> Any:
        with self._lock:
            stdin = self._process.stdin
            if stdin is None or stdin.closed or not self.running:
                raise SimulatorError(f"the simulated board has ended{self._why()}")
            try:
                stdin.write(word.encode() + b"\n")
                stdin.flush()
            except OSError as error:
                raise SimulatorError(f"the simulated board has ended{self._why()}") from error
            return self._answer(word)

    def _answer(self, word: str) -> Any:
        """The line of JSON that a word is answered with."""
        stdout = self._process.stdout
        assert stdout is not None
        end, text = time.monotonic() + _ANSWER_S, b""
        while not text.endswith(b"\n"):
            readable, _, _ = select.select([stdout], [], [], max(end - time.monotonic(), 0))
            if not readable:
                raise SimulatorError(f"the simulated board did not answer '{word}' within {_ANSWER_S:g} s")
            piece = os.read(stdout.fileno(), 4096)
            if not piece:
                self._process.wait()
                raise SimulatorError(f"the simulated board ended at '{word}'{self._why()}")
            text += piece
        return json.loads(text)

    def _why(self) -> str:
        """Exit status and last words of a process that has ended."""
        stderr, status = self._process.stderr, self._process.poll()
        said = ""
        if stderr is not None and not stderr.closed and status is not None:
            said = stderr.read().decode(errors="replace").strip()
        return f" ({'stopped' if status is None else f'status {status}'})" + (f": {said}" if said else "")


def start(
    *, transport: str = "pty", rows: int = 2, columns: int = 2, energy: str = "none", name: str = "simulated",
    modelled_watts: float = DEFAULT_WATTS,
) -> Simulator:  # fmt: skip
    """Build if need be and start a simulated board; a context manager that ends it.

    Args:
        transport: ``pty`` or ``tcp``.
        rows, columns: dot units.
        energy: ``none``, or ``modelled``: ``modelled_watts`` times the time of the cycles. Never ``measured``.
        name: what the board calls itself.

    Each combination of rows, columns and name is a program of its own, to be built once.

    Raises:
        VerilatorMissing, SimulatorError: as :func:`build`; or the program did not start.
        ValueError: an argument is none of the above.
    """
    if transport not in TRANSPORTS:
        raise ValueError(f"transport {transport!r} is unknown; valid: {', '.join(TRANSPORTS)}")
    if energy not in ("none", "modelled"):
        raise ValueError(f"energy {energy!r} is not what a simulated board can have; valid: none, modelled")
    return Simulator(
        Model(rows=rows, columns=columns, name=name),
        pty=transport == "pty",
        port=0 if transport == "tcp" else None,
        modelled_watts=modelled_watts if energy == "modelled" else None,
    )


def _end(process: subprocess.Popen[bytes], owner: int, timeout: float = 5.0) -> None:
    """Close the simulator's standard input, which ends it; kill it if it does not end within ``timeout`` seconds."""
    if os.getpid() != owner:  # a fork of its parent exits; the board is not the fork's
        return
    if process.stdin is not None:
        try:
            process.stdin.close()
        except OSError:  # a word that was never read
            pass
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
