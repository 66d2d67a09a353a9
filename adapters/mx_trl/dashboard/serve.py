"""Serves a folder of runs on this machine's loopback, by Trackio, in a process that training knows nothing of."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mx_plugin.errors import PluginError

from .feed import Feed

HOST = "127.0.0.1"
_ELSEWHERE = ("TRACKIO_", "GRADIO_", "SPACE_", "SYSTEM")
"""Of these variables none may send data away, choose another address or post what is shown."""


def serve(folder: Path, port: int | None, poll_seconds: float = 1.0) -> None:
    """Show all runs in ``folder`` until interrupted or terminated.

    Trackio's data lie in a temporary folder and are made anew from the runs' files each time, so that nothing has to
    be kept, and nothing is lost when this process is killed.

    Raises:
        PluginError: Trackio is not installed, or the port is taken.
    """
    scratch = Path(tempfile.mkdtemp(prefix="mx-dashboard-"))
    try:
        with _until_terminated(), contextlib.ExitStack() as stack:
            trackio = _trackio(scratch)
            project = project_name(folder)
            port = _port(port)
            feed = Feed(folder, lambda name: _begin(trackio, project, name), _levels(trackio))
            with _quiet():
                app, *_ = trackio.show(
                    project, open_browser=False, block_thread=False, host=HOST, share=False, server_port=port,
                    mcp_server=False,
                )  # fmt: skip
            stack.callback(_close, app, trackio, feed)
            _say(folder, project, port)
            while True:
                with _quiet():  # alerts are in the run's own log
                    feed.poll()
                time.sleep(poll_seconds)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _close(app: Any, trackio: Any, feed: Feed) -> None:
    with _quiet(), contextlib.suppress(Exception):  # a page that is going away has nobody to complain to
        if feed.begun:
            trackio.finish()
        app.close(verbose=False)


def project_name(folder: Path) -> str:
    """Trackio's name for the folder: letters, digits, ``_`` and ``-``."""
    name = "".join(c if c.isalnum() or c in "_-" else "-" for c in folder.resolve().name).strip("-")
    return name or "runs"


class _Terminated(BaseException):  # which no library takes for an error of its own
    pass


@contextlib.contextmanager
def _until_terminated() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the block, and are no error."""

    def end(number: int, frame: Any) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except (KeyboardInterrupt, _Terminated):
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


def _trackio(scratch: Path) -> Any:
    """Trackio, whose data go to ``scratch`` and nowhere else."""
    for name in list(os.environ):
        if name.startswith(_ELSEWHERE):
            del os.environ[name]
    os.environ |= {
        "TRACKIO_DIR": str(scratch),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
    }
    try:
        import trackio
    except ImportError as error:
        raise PluginError(
            "mx-plugin dashboard shows runs by Trackio, which is not installed: pip install 'mx-plugin[dashboard]'; "
            "without it, --html FILE writes the same panels as one page"
        ) from error
    return trackio


def _begin(trackio: Any, project: str, name: str) -> Any:
    with _quiet():
        return trackio.init(
            project, name=name, resume="never", embed=False, auto_log_gpu=False, auto_log_cpu=False
        )  # fmt: skip


def _levels(trackio: Any) -> dict[str, Any]:
    level = trackio.AlertLevel
    return {"info": level.INFO, "warning": level.WARN, "error": level.ERROR}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Trackio prints a token that lets whoever has it write: not for the terminal's history."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _port(asked: int | None) -> int:
    """The port asked for; None takes the first free one from 7860, 0 any free one."""
    for port in [asked] if asked is not None else range(7860, 7960):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                if asked is None:
                    continue
                raise PluginError(
                    f"--port {asked} is taken ({error.strerror}): choose another, or leave it out"
                ) from error
            return int(probe.getsockname()[1])
    raise PluginError("no port from 7860 to 7959 is free: choose one by --port")


def _say(folder: Path, project: str, port: int) -> None:
    print(f"dashboard of {folder}: http://{HOST}:{port}/?project={quote(project)}")
    print(f"from another machine: ssh -N -L {port}:{HOST}:{port} {socket.gethostname()}, then the same address")
    print("Ctrl-C ends the dashboard; training goes on without it", flush=True)
