"""Is training healthy? A panel for each quantity of stability.jsonl, alerts marked where they came."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from .collect import ReportData, RunData
from .figure import Figure, axis, label, layout
from .theme import RUNS

PANELS: dict[str, tuple[str, str, str]] = {
    "reward": ("Reward", "reward in training", "As the trainer reports it."),
    "reward_std": ("Spread of the reward", "standard deviation", "Of one step's responses; 0 teaches nothing."),
    "kl_per_token": ("KL to the reference", "nats a token", "In the formats of training."),
    "kl_unquantised": ("KL to the start, unquantised", "nats a token", "Policy and reference both unquantised."),
    "mismatch": ("Rollout against training", "mean |log-ratio|, nats a token", ""),
    "mismatch_outside_clip": ("Mismatch outside the clip range", "share of tokens", "Before any update."),
    "entropy": ("Entropy", "nats a token", ""),
    "ratio": ("Ratio, new to old policy", "mean over tokens", ""),
    "clip_fraction": ("Outside the clip range", "share of tokens", "What the clipped objective discards."),
    "explained_variance": ("Explained variance of the critic", "share", "1 - Var(return - value) / Var(return)."),
    "length": ("Length of responses", "tokens", ""),
    "grad_norm/": ("Gradient norms by role", "2-norm before clipping", "The largest since the record before."),
    "drift/": (
        "Drift from the start by layer",
        "relative change",
        "||W - W0|| / ||W0||, a line a layer; point at one to read its name. Estimated from a sample of the weights.",
    ),
    "format/": ("Format mix", "share of a phase's MACs", "By the format of the weights."),
    "loss": ("Loss", "", ""),
}
"""Names of stability.jsonl in the order of the page; one that ends in / is a family, a line for each member."""

SEVERITIES = {"error": "#cc3311", "warning": "#ee7733", "info": "#4477aa"}
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_FEW, _LEGIBLE = 12, 6
_HEAD = ("run", "step", "severity", "rule", "what was seen")


def stability_figures(data: ReportData, colours: Mapping[str, str]) -> list[Figure]:
    """A figure for each quantity that any run has a record of."""
    runs = [run for run in data.runs if run.stability]
    figures = []
    for name, (title, unit, note) in PANELS.items():
        traces: list[dict[str, Any]] = []
        for run in runs:
            traces += _lines(run, name, len(runs) == 1, colours[run.name])
        if not traces:
            continue
        marks = [mark for run in runs for mark in _marks(run, name)]
        figures.append(Figure(f"stability-{name.rstrip('/')}", title, traces + marks, _layout(runs, unit, traces),
                              note, 300 if len(traces) > 1 else 260))  # fmt: skip
    return figures


def alert_table(data: ReportData) -> str:
    """HTML: every alert with its run, step, rule and words; or that there was none."""
    rows = "".join(_row(_named(run, data), alert) for run in data.runs for alert in run.alerts)
    if not rows:
        return "<p>No alert.</p>"
    head = "".join(f"<th>{word}</th>" for word in _HEAD)
    return f"<table class='alerts'><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _row(run: str, alert: Mapping[str, Any]) -> str:
    severity = str(alert.get("severity"))
    colour = SEVERITIES.get(severity, SEVERITIES["warning"])
    cells = (run, alert.get("step"), severity, alert.get("rule"), alert.get("message"))
    styles = ("", "", f" style='color:{colour}'", "", "")
    texts = zip(_HEAD, styles, map(str, cells), strict=True)
    row = "".join(f"<td data-label='{head}'{style}><span>{escape(text)}</span></td>" for head, style, text in texts)
    return f"<tr>{row}</tr>"


def _named(run: RunData, data: ReportData) -> str:
    return run.name if len({r.seed for r in data.runs}) == 1 else f"{run.name}, seed {run.seed}"


def _members(run: RunData, name: str) -> list[str]:
    if not name.endswith("/"):
        return [name] if name in run.stability else []
    return [known for known in run.stability if known.startswith(name)]


def _lines(run: RunData, name: str, alone: bool, colour: str) -> list[dict[str, Any]]:
    """One run: a colour a member. Several: a colour a run, a dash a member."""
    traces = []
    members = _members(run, name)
    for number, member in enumerate(members):
        points = [(step, value) for step, value in run.stability[member] if math.isfinite(value)]
        if not points:
            continue
        own = RUNS[number % len(RUNS)] if alone and len(members) > 1 else colour
        dash = _DASHES[number % len(_DASHES)] if not alone else _DASHES[number // len(RUNS) % len(_DASHES)]
        words = member.removeprefix(name) if len(members) > 1 else ""
        shown = label(words if alone else f"{run.name} {words}".strip())
        traces.append({
            "type": "scatter", "mode": "lines+markers" if len(points) <= _FEW else "lines", "name": shown,
            "x": [step for step, _ in points], "y": [float(f"{value:.6g}") for _, value in points],
            "line": {"color": own, "width": 1.5 if len(members) > 4 else 2, "dash": dash},
            "marker": {"size": 4, "color": own},
            "hovertemplate": f"{shown + '<br>' if shown else ''}step %{{x}}: %{{y:.4g}}<extra></extra>",
        })  # fmt: skip
    return traces


def _marks(run: RunData, name: str) -> list[dict[str, Any]]:
    """A triangle where an alert came, on the plot of its metric; one of NaN has no place but the vertical line."""
    traces = []
    for alert in run.alerts:
        if "mark" not in alert.get("action", ("mark",)):
            continue
        metric, step, value = str(alert.get("metric")), alert["step"], alert.get("value")
        if metric not in _members(run, name) or not isinstance(value, int | float) or not math.isfinite(value):
            continue
        colour = SEVERITIES.get(str(alert.get("severity")), SEVERITIES["warning"])
        words = f"{label(str(alert.get('rule')))}<br>step {step}: {label(str(alert.get('message')))}"
        traces.append({
            "type": "scatter", "mode": "markers", "name": "alert", "x": [step], "y": [float(f"{value:.6g}")],
            "marker": {"symbol": "triangle-down", "size": 12, "color": colour, "line": {"width": 1, "color": colour}},
            "showlegend": False, "hovertext": [words], "hoverinfo": "text", "cliponaxis": False,
        })  # fmt: skip
    return traces


def _layout(runs: list[RunData], unit: str, traces: list[dict[str, Any]]) -> dict[str, Any]:
    """Lines across every plot where any alert came, so that what happened at once is seen at once."""
    shapes = []
    seen = set()
    for run in runs:
        for alert in run.alerts:
            step, severity = alert.get("step"), str(alert.get("severity"))
            if isinstance(step, int) and "mark" in alert.get("action", ("mark",)) and (step, severity) not in seen:
                seen.add((step, severity))
                shapes.append({
                    "type": "line", "x0": step, "x1": step, "y0": 0, "y1": 1, "yref": "paper", "layer": "below",
                    "opacity": 0.45,
                    "line": {"width": 1, "dash": "dot", "color": SEVERITIES.get(severity, SEVERITIES["warning"])},
                })  # fmt: skip
    several = 1 < sum(1 for trace in traces if trace["name"]) <= _LEGIBLE
    legend = {"orientation": "h", "y": -0.3, "font": {"size": 10}} if several else {}
    return layout(axis("step"), axis(unit), shapes=shapes, showlegend=several, legend=legend)
