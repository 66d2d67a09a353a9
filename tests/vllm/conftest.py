"""What is under ``real`` runs where vLLM is installed (``make test_vllm``), else is not collected."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore = [] if find_spec("vllm") and find_spec("trl") else ["real"]
