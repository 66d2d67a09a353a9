"""``--dashboard``: a dashboard in a process of its own, begun and ended with training."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments

from mx_plugin.errors import PluginError

from ..observer import Observer
from ..train_wrap import held_callback

log = logging.getLogger("mx_trl.dashboard")

LOG = "dashboard_log.txt"


def need_trackio() -> None:
    """Raise PluginError where Trackio is not installed."""
    if find_spec("trackio") is None:
        raise PluginError(
            "--dashboard shows runs by Trackio, which is not installed: pip install 'mx-plugin[dashboard]'"
        )


class LiveDashboard(Observer):
    """Runs ``mx-plugin dashboard`` on the run's folder while ``train()`` lasts; it writes ``dashboard_log.txt``.

    Whatever becomes of that process, training goes on; it is never asked for anything.

    Args:
        folder: the run's; None takes the run folder of the trainer's MXCallback, else the trainer's ``output_dir``.
    """

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__()
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._trainer: Any = None

    @contextmanager
    def observing(self, trainer: Any) -> Iterator[None]:
        """See :class:`~mx_trl.observer.Observer`."""
        self._trainer = trainer
        try:
            yield
        finally:
            self._trainer = None
            if self._process is not None:
                self._process.terminate()
                log.info("the dashboard ends with training; `mx-plugin dashboard RUN` shows the run again")
                self._process = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        callback = held_callback(self._trainer)
        folder = self.folder or (callback.run_dir if callback is not None else None) or Path(args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        port = _free_port()
        command = [sys.executable, "-m", "mx_plugin", "dashboard", str(folder), "--port", str(port)]
        with (folder / LOG).open("wb") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        print(f"dashboard: http://127.0.0.1:{port}/ in a few seconds; from another machine: "
              f"ssh -N -L {port}:127.0.0.1:{port} {socket.gethostname()}", flush=True)  # fmt: skip


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
