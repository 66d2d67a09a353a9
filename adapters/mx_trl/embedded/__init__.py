"""A small random model, its tokenizer, prompts and reward model, made in seconds: shows the plumbing, not a result.

Everything is written to a folder and then loaded by the same code as a real model.
"""

from __future__ import annotations

from .build import EmbeddedFolder, build

__all__ = ["EmbeddedFolder", "build"]
