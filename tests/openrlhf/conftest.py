"""The recipes under ``real`` run where OpenRLHF is installed (``make test_openrlhf``), else are not collected."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore = [] if find_spec("openrlhf") else ["real"]
