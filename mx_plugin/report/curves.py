"""Training curves: a line a run, the mean of its seeds in a band from the lowest to the highest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .collect import ReportData, RunData
from .figure import Figure, axis, label, layout

CURVES = {
    "reward": ("Reward", "reward in training", "As the trainer reports it, of sampled answers."),
    "kl": ("KL as trained on", "nats", "As the trainer reports it, in the formats of training."),
    "kl_unquantised": ("KL to the start, unquantised", "nats a token", "Policy and reference both unquantised."),
    "mismatch": (
        "Rollout against training",
        "mean |log-ratio|, nats a token",
        "How far the sampler's log-probs are from training's, on the same tokens.",
    ),
    "clip_fraction": ("Outside the clip range", "share of tokens", "What the clipped objective discards."),
    "entropy": ("Entropy", "nats", ""),
}
_FEW = 12


def curve_figures(data: ReportData, colours: Mapping[str, str]) -> list[Figure]:
    """A figure for each metric that any run has."""
    figures = []
    for metric, (title, unit, note) in CURVES.items():
        traces: list[dict[str, Any]] = []
        for name, runs in data.by_name().items():
            traces += _line(name, runs, metric, colours[name])
        if traces:
            figures.append(
                Figure(f"curve-{metric}", title, traces, layout(axis("step"), axis(unit)), note, 260)
            )  # fmt: skip
    return figures


def _line(name: str, runs: list[RunData], metric: str, colour: str) -> list[dict[str, Any]]:
    by_step: dict[float, list[float]] = {}
    for run in runs:
        for step, value in run.metrics.get(metric, ()):
            if math.isfinite(value):
                by_step.setdefault(step, []).append(float(f"{value:.9g}"))
    if not by_step:
        return []
    steps = sorted(by_step)
    # Nine digits: the last bits of a mean would otherwise be a constant curve's whole axis.
    means = [float(f"{math.fsum(by_step[step]) / len(by_step[step]):.9g}") for step in steps]
    traces: list[dict[str, Any]] = []
    if len(runs) > 1:
        ring = [*(max(by_step[s]) for s in steps), *(min(by_step[s]) for s in reversed(steps))]
        traces.append({
            "type": "scatter", "mode": "lines", "x": [*steps, *reversed(steps)], "y": ring, "fill": "toself",
            "fillcolor": f"{colour}2e", "line": {"width": 0, "color": colour}, "hoverinfo": "skip", "name": "",
        })  # fmt: skip
    mode = "lines+markers" if len(steps) <= _FEW else "lines"
    traces.append({
        "type": "scatter", "mode": mode, "x": steps, "y": means, "name": label(name),
        "line": {"color": colour, "width": 2}, "marker": {"size": 5, "color": colour},
        "hovertemplate": f"{label(name)}<br>step %{{x}}: %{{y:.4g}}<extra></extra>",
    })  # fmt: skip
    return traces
