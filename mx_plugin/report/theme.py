"""Colours: one for each run, one for each width of format, readable on a light and on a dark page."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import FormatError
from ..formats.spec import FP16, get_format

RUNS = ("#4477aa", "#ee7733", "#228833", "#aa3377", "#66aadd", "#bb9922", "#cc3311", "#7766cc", "#009988", "#997700")
"""After Paul Tol's schemes for colour-blind readers; mid-tones, so that both backgrounds carry them."""

PHASES = {"rollout": "#4477aa", "reward": "#228833", "gradient": "#ee7733", "other": "#999999"}
_UNQUANTISED = "#9aa0a6"
_BY_BITS = ((4.5, "#b2182b"), (6.5, "#ef8a62"), (8.5, "#67a9cf"), (64.0, "#2166ac"))


def run_colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for each run name, in order; they come round again after ten."""
    return {name: RUNS[i % len(RUNS)] for i, name in enumerate(names)}


def phase_colour(phase: str) -> str:
    """Evaluation's phases take the colour of their inner one."""
    return PHASES.get(phase.rpartition("/")[2], PHASES["other"])


def format_colour(text: str) -> str:
    """Of a pair, by the bits of its weights: the narrower, the warmer; grey is unquantised."""
    weights = weight_format(text)
    if weights.partition("[")[0] == FP16:
        return _UNQUANTISED
    return next(colour for bits, colour in _BY_BITS if bits_of(weights) <= bits)


def weight_format(text: str) -> str:
    """``MXFP4`` of ``MXFP4/MXFP8+sr``; of ``forward F, dgrad G, wgrad H`` the forward product's."""
    return text.removeprefix("forward ").partition(",")[0].partition("+")[0].partition("/")[0]


def bits_of(weights: str) -> float:
    """Bits a weight, scales included; 8.25 for a plugin's format that is not here."""
    try:
        return get_format(weights).bits_per_element
    except (FormatError, AttributeError):
        return 8.25
