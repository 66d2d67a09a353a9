"""Rollout correction: samples come from the rollout formats, the update weighs them as the gradient formats would."""

from __future__ import annotations

from .choice import rollout_correction
from .recorder import SamplerLogProbs, recording

__all__ = ["SamplerLogProbs", "recording", "rollout_correction"]
