"""vLLM as the engine of a trainer's rollouts: it multiplies weights that were rounded to their rollout formats."""

from __future__ import annotations

from .rollouts import VLLMRollouts, vllm_rollouts

__all__ = ["VLLMRollouts", "vllm_rollouts"]
