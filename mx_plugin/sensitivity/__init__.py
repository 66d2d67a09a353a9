"""Sensitivity: what each format costs in quality, per layer, phase and role, measured on a model and its data."""

from __future__ import annotations

from .batches import Batch, BatchLike
from .errors import ProfileError
from .policy_costs import PolicyCosts, policy_costs
from .profile import FORMATS, profile
from .progress import Progress, TextBar
from .request import ENGINES
from .result import Profile, RankCorrelation, WholeCost
from .summary import summary

__all__ = [
    "ENGINES",
    "FORMATS",
    "Batch",
    "BatchLike",
    "PolicyCosts",
    "Profile",
    "ProfileError",
    "Progress",
    "RankCorrelation",
    "TextBar",
    "WholeCost",
    "policy_costs",
    "profile",
    "summary",
]
