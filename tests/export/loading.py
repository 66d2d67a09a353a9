"""``python loading.py HOW FOLDER``: load a model, generate a token, print by how many bytes memory peaked."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from mx_trl import load_model


def plain(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto")


def status(name: str) -> int:
    """Bytes of that line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def generate(model: Any) -> None:
    model.generate(torch.arange(8)[None], max_new_tokens=2, do_sample=False, pad_token_id=0)


def peak(load: Callable[[Path], Any], folder: Path, small: Path) -> int:
    """Bytes above what the process held before; the same is done with a small model first, to load all code."""
    generate(load(small))
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    generate(load(folder))
    return status("VmHWM") - before


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(peak({"packed": load_model, "plain": plain}[sys.argv[1]], Path(sys.argv[2]), Path(sys.argv[3])))
