"""One HTML file that needs nothing else: the tables, the figures as data, plotly's script and ours."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from .. import __version__
from ..errors import MXError
from .collect import ReportData
from .curves import curve_figures
from .figure import Figure
from .format_map import format_maps, formats_used
from .pareto import pareto_figures
from .phases import phase_figures
from .profile import profile_figures
from .quality import quality
from .stability import alert_table, stability_figures
from .tables import cost_table, environment, verdict_section
from .theme import format_colour, phase_colour, run_colours

_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
"""The page may load nothing, whatever a name in it tries."""

_FEW_COLUMNS = 3


def page(data: ReportData) -> str:
    """The whole page.

    Raises:
        MXError: plotly is not installed.
    """
    colours = run_colours(data.by_name())
    maps, curves = format_maps(data), curve_figures(data, colours)
    costs = pareto_figures(data, quality(data), colours)
    phases = phase_figures(data)
    health, profile = stability_figures(data, colours), profile_figures(data)
    sections: list[tuple[str, str, str]] = []
    if data.comparison is not None:
        sections.append(("verdicts", "Verdicts", verdict_section(data.comparison)))
    if costs:
        sections.append(("pareto", "Quality against cost", _chips(colours) + _grid(costs, "wide")))
    sections.append(("costs", "What the runs cost", cost_table(data)))
    if maps:
        kinds = {text: format_colour(text) for text in formats_used(data)}
        sections.append(
            ("formats", "Formats by layer and phase", _chips(kinds) + _grid(maps, "" if _narrow(maps) else "wide"))
        )
    if phases:
        shades = {phase: phase_colour(phase) for phase in ("rollout", "reward", "gradient", "other")}
        sections.append(("phases", "Time, energy and bytes by phase", _chips(shades) + _grid(phases)))
    if profile:
        sections.append(("profile", "Where the time went", _grid(profile, "wide")))
    if curves:
        sections.append(("curves", "Training", _chips(colours) + _grid(curves)))
    if health:
        sections.append(_stability_section(data, colours, health))
    sections.append(("environment", "Environment and commands", environment(data)))
    figures = [*costs, *maps, *phases, *profile, *curves, *health]
    return _html(data, sections, figures)


def stability_only(data: ReportData) -> str:
    """A page with the stability panels and nothing else.

    Raises:
        MXError: plotly is not installed.
    """
    colours = run_colours(data.by_name())
    health = stability_figures(data, colours)
    return _html(data, [_stability_section(data, colours, health)], health)


def _stability_section(
    data: ReportData, colours: dict[str, str], figures: Sequence[Figure]
) -> tuple[str, str, str]:  # fmt: skip
    shown = {run.name: colours[run.name] for run in data.runs if run.stability}
    return "stability", "Stability", alert_table(data) + (_chips(shown) if len(shown) > 1 else "") + _grid(figures)


def _html(data: ReportData, sections: Sequence[tuple[str, str, str]], figures: Sequence[Figure]) -> str:
    here = Path(__file__)
    style, script = (here.with_name(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    links = "".join(f"<a href='#{key}'>{escape(title)}</a>" for key, title, _ in sections)
    body = "".join(f"<section id='{key}'><h2>{escape(title)}</h2>{text}</section>" for key, title, text in sections)
    troubles = "".join(f"<li>{escape(text)}</li>" for text in data.troubles)
    plain = [{"key": f.key, "data": f.data, "layout": f.layout, "height": f.height} for f in figures]
    return "".join(
        [
            "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>",
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            "<meta name='viewport' content='width=device-width, initial-scale=1'>",
            "<meta name='color-scheme' content='light dark'>",
            f"<title>{escape(data.title)}</title><link rel='icon' href='data:,'><style>{style}</style></head><body>",
            f"<h1>{escape(data.title)}</h1><p class='lead'>{escape(_lead(data))}</p>",
            f"<nav>{links}</nav>",
            f"<ul class='warn'>{troubles}</ul>" if troubles else "",
            body,
            f"<script type='application/json' id='figures'>{_script_json(plain)}</script>",
            f"<script>{_plotly()}</script><script>{script}</script></body></html>\n",
        ]
    )


def _lead(data: ReportData) -> str:
    names = data.by_name()
    seeds = max(len(runs) for runs in names.values())
    words = f"{len(names)} {'run' if len(names) == 1 else 'runs'} ({', '.join(names)})"
    if data.plan is not None:
        words += f", {seeds} {'seed' if seeds == 1 else 'seeds'}, {data.plan.num_steps} steps of {data.plan.stage}"
        words += f"; baseline {data.plan.baseline}"
    return f"{words}. mx-plugin {__version__}"


def _grid(figures: Sequence[Figure], kind: str = "") -> str:
    cells = "".join(
        f"<figure><b>{escape(f.title)}</b><div class='plot' id='{escape(f.key, quote=True)}' "
        f"style='height:{f.height}px'></div>"
        + (f"<figcaption>{escape(f.note)}</figcaption>" if f.note else "")
        + "</figure>"
        for f in figures
    )
    return f"<div class='grid {kind}'>{cells}</div>"


def _narrow(maps: Sequence[Figure]) -> bool:
    return all(len(trace["x"]) <= _FEW_COLUMNS for figure in maps for trace in figure.data)


def _chips(colours: dict[str, str]) -> str:
    chips = "".join(f"<span><i style='background:{c}'></i>{escape(name)}</span>" for name, c in colours.items())
    return f"<div class='chips'>{chips}</div>"


def _script_json(value: object) -> str:
    """JSON that no text in it can end the script element with; NaN has no place in it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise MXError("mx-plugin report draws with plotly, which is not installed: "
                      "pip install 'mx-plugin[report]'") from error  # fmt: skip
    script: str = get_plotlyjs()
    return script
