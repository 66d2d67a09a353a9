"""The flame graph holds the samples of every window, and its page asks nothing of the network."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from mx_trl.profiler.flame import HTML, SPEEDSCOPE, Flame


def first_window() -> None:
    until = time.perf_counter() + 0.2
    while time.perf_counter() < until:
        sum(range(100))


def between_windows() -> None:
    first_window()


def second_window() -> None:
    first_window()


def test_windows_are_one_graph_and_what_ran_between_them_is_not_in_it(tmp_path: Path) -> None:
    flame = Flame(0.001)
    assert flame.write(tmp_path) == []
    for work in (first_window, second_window):
        flame.start()
        work()
        flame.stop()
        between_windows()
    flame.stop()
    assert flame.write(tmp_path) == [HTML, SPEEDSCOPE]
    speedscope = json.loads((tmp_path / SPEEDSCOPE).read_text(encoding="utf-8"))
    names = {frame["name"] for frame in speedscope["shared"]["frames"]}
    assert {"first_window", "second_window"} <= names
    assert "between_windows" not in names


def test_the_page_loads_nothing(tmp_path: Path) -> None:
    flame = Flame(0.001)
    flame.start()
    first_window()
    flame.stop()
    flame.write(tmp_path)
    html = (tmp_path / HTML).read_text(encoding="utf-8")
    assert "default-src 'none'" in html and "first_window" in html
    assert set(re.findall(r"https?://[\w.-]+", html)) <= {"http://www.w3.org"}  # the name of SVG's elements
