"""The dashboard as a user runs it: a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

_PATIENCE = 300.0


class Dashboard:
    """``mx-plugin dashboard FOLDER`` on any free port; ``url`` is where its page is."""

    def __init__(self, folder: Path, log: Path) -> None:
        self.folder, self.log = folder, log
        # A proxy that nobody serves: whatever would leave this machine fails.
        nowhere = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mx_plugin", "dashboard", str(folder), "--port", "0", "--poll", "0.1"],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **nowhere, "no_proxy": "127.0.0.1,localhost", "TRACKIO_SPACE_ID": "not/ours"},
            )
        self.url = ""

    def wait(self) -> Dashboard:
        """Until it serves."""

        def said() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return "ssh -N -L" in self.log.read_text()

        until(said, "the dashboard does not serve")
        [self.url] = re.findall(r"(http://\S+)", self.log.read_text())[:1]
        return self

    def __enter__(self) -> Dashboard:
        return self.wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        self.process.wait(60)

    def kill(self) -> None:
        """kill -9."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(60)

    def ask(self, name: str, **arguments: Any) -> Any:
        """A question to Trackio's own interface, as its page asks it."""
        request = urllib.request.Request(
            f"{self.url.split('?')[0]}api/{name}",
            json.dumps(arguments).encode(),
            {"Content-Type": "application/json"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as answer:
            return json.load(answer)["data"]

    @property
    def project(self) -> str:
        return self.url.rpartition("project=")[2]

    def steps(self, run: str, metric: str) -> list[int]:
        """At which steps the page's plot of a metric has points."""
        if run not in [known["name"] for known in self.ask("get_runs_for_project", project=self.project)]:
            return []
        return [entry["step"] for entry in self.ask("get_logs", project=self.project, run=run) if metric in entry]

    def alerts(self) -> list[tuple[int, str]]:
        """(step, rule) of the alerts that it lists."""
        found = self.ask("get_alerts", project=self.project)
        return sorted((alert["step"], alert["title"]) for alert in found)


def until(true: Callable[[], bool], otherwise: str) -> None:
    """Wait until it is so."""
    end = time.monotonic() + _PATIENCE
    while not true():
        assert time.monotonic() < end, otherwise
        time.sleep(0.1)
