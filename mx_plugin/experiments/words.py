"""A comparison in plain words, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def comparison_lines(found: Mapping[str, Any]) -> list[str]:
    """What ``comparison.json`` holds, one line a statement; everything that was declared or measured is said."""
    margin = found["margin"]
    declared = f"{margin['metric']} {margin['value']:g}" if margin else "none, so nothing can be called non-inferior"
    lines = [
        f"baseline {found['baseline']}, judge {found['judge']}, non-inferiority margin declared beforehand: {declared}",
        f"intervals: {found['confidence']:.0%}, bootstrap over prompts and seeds",
    ]
    for form, start in found["baseline_over_start"].items():
        lines += ["", f"{form}, {found['prompts'][form]} held-out prompts", f"  {start['why']}"]
        lines += [f"  {line}" for line in _noise_lines(found["noise"][form])]
        for name, forms in found["runs"].items():
            if "verdict" in forms.get(form, {}):
                lines += [f"  {line}" for line in _run_lines(name, forms[form])]
        for name, forms in found["controls"].items():
            lines.append(f"  {name}: {_contrast(forms[form])}")
    if found["not_evaluated"]:
        lines += ["", f"not evaluated: {', '.join(found['not_evaluated'])}"]
    return lines


def _noise_lines(noise: Mapping[str, Any]) -> list[str]:
    lines = []
    for metric in ("judge", "win_rate"):
        one = noise.get(metric)
        if one and one["minimum_detectable_effect"] is not None:
            lines.append(
                f"minimum detectable effect of {metric}: {one['minimum_detectable_effect']:.3g} "
                f"(noise floor {one['floor']:.3g}, from {one['from']})"
            )
    return lines or ["minimum detectable effect: unknown with one seed"]


def _run_lines(name: str, run: Mapping[str, Any]) -> list[str]:
    return [f"{name}: {run['verdict']} - {run['why']}", f"  {_contrast(run)}"]


def _contrast(run: Mapping[str, Any]) -> str:
    rate = run["win_rate"]
    words = [
        f"win rate {rate['value']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}] "
        f"({rate['wins']} wins, {rate['ties']} ties, {rate['losses']} losses)"
    ]
    for metric, delta in run["deltas"].items():
        known = delta["low"] is not None and delta["high"] is not None
        limits = f" [{delta['low']:+.3g}, {delta['high']:+.3g}]" if known else ""
        words.append(f"{metric} {delta['value']:+.3g}{limits}")
    return ", ".join(words)
