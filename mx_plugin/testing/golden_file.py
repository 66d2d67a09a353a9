"""Golden vectors: blocks and what independent libraries cast them to; ``golden/casts.json`` names its origin."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
import torch

FILE = "casts.json"


@dataclass(frozen=True)
class GoldenBlocks:
    """Blocks of one format, group and scale rule: ``x`` and ``values`` float32 (n, 32), ``elements`` uint8 (n, 32),
    ``scales`` uint8 (n, 1)."""

    format: str
    group: str
    scale_rule: str
    x: torch.Tensor
    values: torch.Tensor
    elements: torch.Tensor
    scales: torch.Tensor


@cache
def golden() -> tuple[GoldenBlocks, ...]:
    """All vectors of the file."""
    lines: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for line in read()["vectors"]:
        lines.setdefault((line["format"], line["group"], line["scale_rule"]), []).append(line)
    return tuple(
        GoldenBlocks(
            *place,
            x=_floats([line["input"] for line in found]),
            values=_floats([line["values"] for line in found]),
            elements=_bytes([line["elements"] for line in found]),
            scales=torch.tensor([[int(line["scale"])] for line in found], dtype=torch.uint8),
        )
        for place, found in lines.items()
    )


@cache
def read() -> dict[str, list[dict[str, str]]]:
    """The file as it is; ``origin`` says who computed it, and how."""
    file = resources.files(__package__).joinpath("golden", FILE)
    document: dict[str, list[dict[str, str]]] = json.loads(file.read_text("utf-8"))
    return document


def _floats(lines: list[str]) -> torch.Tensor:
    rows = [np.frombuffer(bytes.fromhex(line), dtype=">f4").astype(np.float32) for line in lines]
    return torch.from_numpy(np.stack(rows))


def _bytes(lines: list[str]) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.frombuffer(bytes.fromhex(line), dtype=np.uint8) for line in lines]))
