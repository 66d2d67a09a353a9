"""``mx_packed.json``: what a packed folder holds, beside the tensors themselves."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mx_plugin.errors import FormatError

from ..errors import StageError

MANIFEST = "mx_packed.json"
TENSORS = "mx_model.safetensors"
"""Not ``model.safetensors``: transformers would load it, miss the packed weights and make up others."""

VERSION = 1


@dataclass(frozen=True)
class PackedLayer:
    """How one module multiplies: formats of weights and activations, and the scale rule of both casts."""

    weights: str
    activations: str
    scale_rule: str


@dataclass(frozen=True)
class Manifest:
    """What ``load_model`` needs to know, and what a reader may want to.

    ``layers`` by module path; ``aliases``: tensor name -> the name under which the same tensor is stored (tied
    embeddings); by format ``packed_bytes``, on disk, of weights that would take ``bfloat16_bytes`` in bfloat16.
    """

    kind: str
    policy: str
    role: str
    phase: str
    layers: dict[str, PackedLayer]
    aliases: dict[str, str] = field(default_factory=dict)
    packed_bytes: dict[str, int] = field(default_factory=dict)
    bfloat16_bytes: dict[str, int] = field(default_factory=dict)
    other_bytes: int = 0
    source: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    version: int = VERSION

    def write(self, folder: Path) -> None:
        """Into ``folder``."""
        (folder / MANIFEST).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """That of a packed folder.

        Raises:
            StageError: not a packed folder, or one of a newer version.
        """
        file = folder / MANIFEST
        if not file.is_file():
            raise StageError(
                f"{folder} is no packed model, it has no {MANIFEST}: write one by `mx-plugin export RUN DIR --packed`; "
                "other models load by transformers' from_pretrained"
            )
        try:
            data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            if data["version"] > VERSION:
                raise FormatError(f"it has version {data['version']}, this mx-plugin reads {VERSION}: update mx-plugin")
            layers = {name: PackedLayer(**layer) for name, layer in data.pop("layers").items()}
            return cls(layers=layers, **data)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StageError(f"cannot read {file}: {error}") from error
