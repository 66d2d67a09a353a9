"""Loading a packed model takes the memory of its packed weights, never that of the full-precision ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from mx_trl.export.command import export_model

SLACK = 40e6
"""What Python objects, the allocator and one generation take besides weights."""


def saved(folder: Path, hidden: int, layers: int) -> Path:
    config = LlamaConfig(
        vocab_size=256, hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=layers,
        num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=64, tie_word_embeddings=False,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


def peak(*words: Any) -> int:
    script = Path(__file__).with_name("loading.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script, *map(str, words)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_packed_model_is_loaded_within_the_memory_of_its_packed_weights(tmp_path: Path) -> None:
    big, small = saved(tmp_path / "big", 1024, 8), saved(tmp_path / "small", 64, 1)
    sizes = {}
    for name, folder in (("big", big), ("small", small)):
        done = export_model(folder, tmp_path / f"{name}_packed", packed=True, policy="C")
        assert done.manifest is not None
        sizes[name] = done.manifest
    packed = sum(sizes["big"].packed_bytes.values()) + sizes["big"].other_bytes
    full = sum(sizes["big"].bfloat16_bytes.values()) + sizes["big"].other_bytes
    loaded = peak("packed", tmp_path / "big_packed", tmp_path / "small_packed")
    print(f"packed {packed / 1e6:.1f} MB, bfloat16 {full / 1e6:.1f} MB, peak when loaded packed {loaded / 1e6:.1f} MB")
    assert loaded < packed + SLACK < full / 2
    assert peak("plain", big, small) > 0.9 * full  # what is measured would notice
