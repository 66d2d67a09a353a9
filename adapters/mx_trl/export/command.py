"""``mx-plugin export``: writes the folder as a whole, or not at all, and says what is in it."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from ..errors import StageError
from .manifest import MANIFEST, Manifest
from .models import kind_of, load_in_full
from .packed import PackedModel, pack_model, write_packed
from .source import ExportSource, find_source, is_model


@dataclass(frozen=True)
class Exported:
    """What was written: ``manifest`` is None for a plain folder; ``bytes`` of all its files."""

    source: Path
    folder: Path
    manifest: Manifest | None
    bytes: int

    def __str__(self) -> str:
        head = f"{self.folder}: {self.bytes / 1e6:.3f} MB, exported from {self.source}"
        if self.manifest is None:
            return f"{head}\nloads by from_pretrained"
        m = self.manifest
        lines = [head, f"policy {m.policy}, {m.phase}: {len(m.layers)} packed layers, loads by mx_trl.load_model"]
        for name, size in m.packed_bytes.items():
            share = size / m.bfloat16_bytes[name]
            lines.append(f"  {name}: {size / 1e6:.3f} MB, {share:.4f} of bfloat16 ({16 * share:.2f} bits a weight)")
        return "\n".join([*lines, f"  as they are: {m.other_bytes / 1e6:.3f} MB"])


def export_model(
    run: str | Path,
    folder: str | Path,
    *,
    packed: bool = False,
    policy: str | None = None,
    dtype: str | None = None,
    overwrite: bool = False,
    trust_remote_code: bool = False,
) -> Exported:
    """Write the model of a run to ``folder``; see docs/export.md.

    Args:
        run: a run's folder, its ``policy_<name>/``, one checkpoint, or a model folder.
        packed: pack the layers in the run's rollout formats instead of writing a plain Hugging Face folder.
        policy: for ``packed``: a precision policy in the place of the run's own.
        dtype: ``float32``, ``bfloat16`` or ``float16``: convert to it first.
        overwrite: replace a folder that holds a model.

    Raises:
        StageError: no model is found or it cannot be loaded; ``folder`` is taken; nothing to pack.
        PolicyError: the policy does not exist or does not fit the model.
    """
    target = Path(folder)
    source = find_source(run)
    _check_target(target, source.model, overwrite)
    if policy is not None and not packed:
        raise StageError("--policy says how layers are packed: it needs --packed")
    model, tokenizer = load_in_full(source.model, trust_remote_code)
    if dtype is not None:
        model = model.to(getattr(torch, dtype))
    with _written_whole(target) as scratch:
        manifest = _pack(model, source, policy, scratch) if packed else None
        if manifest is None:
            model.save_pretrained(scratch, safe_serialization=True)
        _write_around(model, tokenizer, scratch)
    written = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    return Exported(source.model, target, manifest, written)


def _pack(model: PreTrainedModel, source: ExportSource, policy: str | None, scratch: Path) -> Manifest:
    kind = kind_of(model.config)
    provider = source.provider(policy)
    found: PackedModel = pack_model(model, kind, provider)
    manifest = Manifest(
        kind=kind.name,
        policy=str(provider.describe().get("name", policy)),
        role=kind.role,
        phase=kind.phase,
        layers=found.layers,
        aliases=found.aliases,
        packed_bytes=found.packed_bytes,
        bfloat16_bytes=found.bfloat16_bytes,
        other_bytes=found.other_bytes,
        source=source.model.name,
        versions={name: version(name) for name in ("mx-plugin", "torch", "transformers")},
    )
    write_packed(found, manifest, scratch)
    # A packed output head is no longer the embedding's transpose; readers of the config must not tie them again.
    head = model.get_output_embeddings()
    if any(module is head and path in found.layers for path, module in model.named_modules()):
        model.config.tie_word_embeddings = False
    return manifest


def _write_around(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> None:
    model.config.save_pretrained(folder)
    if getattr(model, "generation_config", None) is not None and model.can_generate():
        model.generation_config.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


_CHAT_TEMPLATES = "additional_chat_templates"
"""The one folder that a tokenizer writes among its files."""


def _check_target(target: Path, model: Path, overwrite: bool) -> None:
    if target.resolve() == model.resolve() or model.resolve().is_relative_to(target.resolve()):
        raise StageError(f"{target} holds the model that is exported: choose another folder")
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not target.is_dir() or not (is_model(target) or (target / MANIFEST).is_file()):
        raise StageError(f"{target} exists and is no exported model: choose another folder")
    more = [path.name for path in sorted(target.iterdir()) if path.is_dir() and path.name != _CHAT_TEMPLATES]
    if more:
        raise StageError(f"{target} holds more than an exported model ({', '.join(more)}): choose another folder")
    if not overwrite:
        raise StageError(f"{target} holds a model already: choose another folder, or give --overwrite")


@contextmanager
def _written_whole(target: Path) -> Iterator[Path]:
    """A folder beside ``target`` that becomes it when the block ends; models that have mapped the old one keep it."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as beside:
            made = Path(beside) / "made"
            made.mkdir()
            yield made
            if target.exists():
                shutil.rmtree(target)
            made.rename(target)
    except OSError as error:
        raise StageError(f"cannot write {target}: {error}") from error


def run(arguments: argparse.Namespace) -> int:
    """Export and print what was written.

    Raises:
        MXError: see :func:`export_model`.
    """
    transformers_logging.disable_progress_bar()
    done = export_model(
        arguments.run,
        arguments.folder,
        packed=arguments.packed,
        policy=arguments.policy,
        dtype=arguments.dtype,
        overwrite=arguments.overwrite,
        trust_remote_code=arguments.trust_remote_code,
    )
    print(done)
    return 0
