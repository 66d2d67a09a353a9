"""The page in a real browser: nothing complains, nothing sticks out, every point is there, in both colour schemes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mx_plugin.report.collect import collect
from mx_plugin.report.curves import curve_figures
from mx_plugin.report.format_map import format_maps
from mx_plugin.report.pareto import pareto_figures
from mx_plugin.report.phases import phase_figures
from mx_plugin.report.quality import quality
from mx_plugin.report.theme import run_colours
from mx_plugin.report.write import write_report
from tests.evaluation.synthetic import Drawn, write_results
from tests.report.browser import HOW, Browser, find

pytest.importorskip("plotly", reason="plotly draws the page: pip install 'mx-plugin[report]'")
pytestmark = pytest.mark.skipif(find() is None, reason=HOW)

EVIL = "<script>document.title='owned'</script>"
DRAWN = "[...document.querySelectorAll('.plot')].every(p => p.querySelector('svg.main-svg'))"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five runs of two seeds, one with a name that would be a script."""
    path = tmp_path_factory.mktemp("report") / "results"
    runs = {
        "A": Drawn(0.5, seconds=80, policy="A", joules=30.0),
        "C": Drawn(0.46, seconds=55, joules=28.0, deployed_loss=0.05),
        EVIL: Drawn(0.3, seconds=50, policy="B", joules=20.0),
        "random-C": Drawn(0.2, seconds=56, control="random", about={"of": "C"}, joules=28.0),
    }
    write_results(path, runs, seeds=(1, 2), steps=6, prompts=30)
    write_report(path)
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_complains_is_asked_of_the_network_or_sticks_out(
    browser: Browser, folder: Path, width: int, scheme: str
) -> None:
    browser.complaints.clear()
    browser.look(width, scheme=scheme)
    browser.open(folder / "report.html")
    assert browser.value(DRAWN)
    assert browser.complaints == []
    assert browser.value("document.documentElement.scrollWidth") <= width
    wide = "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1"
    assert browser.value(f"{wide} && !e.closest('pre') && !e.closest('svg')).map(e => e.outerHTML.slice(0, 80))") == []


def test_every_plot_shows_the_points_of_its_figure(browser: Browser, folder: Path) -> None:
    browser.look(1200)
    browser.open(folder / "report.html")
    data = collect(folder)
    colours = run_colours(data.by_name())
    pareto = pareto_figures(data, quality(data), colours)
    assert [figure.key for figure in pareto] == ["pareto-seconds", "pareto-zeus:cpu", "pareto-modelled:as-executed"]

    def count(key: str, what: str) -> int:
        return int(browser.value(f"document.getElementById('{key}').querySelectorAll('{what}').length"))

    for figure in pareto:
        assert count(figure.key, ".scatterlayer .point") == 2 * 4, figure.key  # four runs, deployed and unquantised
    for figure in phase_figures(data):
        assert count(figure.key, ".barlayer .point") >= 4 * 3, figure.key  # four runs, three phases or more
    for figure in curve_figures(data, colours):
        assert count(figure.key, "path.js-line") >= 4, figure.key
    for figure in format_maps(data):
        assert count(figure.key, ".heatmap-label") == figure.points == 9 * 3


def test_the_colour_scheme_is_followed_also_while_the_page_is_open(browser: Browser, folder: Path) -> None:
    colours = "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color, "
    colours += "getComputedStyle(document.querySelector('.plot .xtitle')).fill]"
    browser.look(1200, scheme="light")
    browser.open(folder / "report.html")
    assert browser.value(colours) == ["rgb(255, 255, 255)", "rgb(31, 35, 40)", "rgb(31, 35, 40)"]
    browser.look(1200, scheme="dark")
    browser.value("new Promise(done => setTimeout(done, 300))")
    assert browser.value(colours) == ["rgb(13, 17, 23)", "rgb(230, 237, 243)", "rgb(230, 237, 243)"]


def test_a_policy_called_like_a_script_is_shown_and_not_run(browser: Browser, folder: Path) -> None:
    browser.look(1200)
    browser.open(folder / "report.html")
    assert browser.value("document.title") == "Experiment results"
    assert browser.value("document.querySelectorAll('script').length") == 3
    shown = browser.value("[...document.querySelectorAll('#pareto-seconds .textpoint')].map(e => e.textContent)")
    assert EVIL in shown
    assert EVIL in browser.value("document.querySelector('#verdicts').textContent")


def test_the_browser_test_can_fail(browser: Browser, tmp_path: Path) -> None:
    """A page with every fault is caught for each of them."""
    page = tmp_path / "bad.html"
    page.write_text(
        "<!doctype html><body><div style='width:900px'>wide</div><img src='http://127.0.0.1:9/x.png'>"
        "<script>console.error('oh'); throw Error('thrown')</script></body>"
    )
    browser.complaints.clear()
    browser.look(390)
    browser.open(page)
    assert browser.value("document.documentElement.scrollWidth") > 390
    told = "\n".join(browser.complaints)
    assert "oh" in told and "thrown" in told and "request: http://127.0.0.1:9" in told
