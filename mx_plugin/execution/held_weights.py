"""Weights that an inference engine holds in this process: rounded in place, or looked at to see that they lie on grid.

Rounded weights stay in the engine's dtype and are multiplied by its own kernels. MX values are exact in bfloat16 but at
the extreme scales, so nothing else is lost. A module that the engine executes in an MX format of its own is looked at
only. The engine's classes are passed in: nothing of it is imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import AdoptionError
from ..formats.cast import fake_quantize_
from ..formats.spec import get_format
from ..precision.fused import FusedLayer, Rounding, sibling_names

_UNQUANTISED = ("UnquantizedLinearMethod", "UnquantizedEmbeddingMethod")


UNKNOWN = "unknown"


@dataclass(frozen=True)
class OwnFormat:
    """An MX format in which an engine itself executes a module.

    ``activations``: what its kernel casts them to; ``FP16`` not at all, ``UNKNOWN`` where that is not known.
    """

    format: str
    activations: str
    kernel: str

    def __str__(self) -> str:
        return f"{self.format}/{self.activations}"

    def describe(self) -> dict[str, str]:
        """Plain data for config.json."""
        return {"pair": str(self), "kernel": self.kernel}


def _no_format(module: Any) -> OwnFormat | None:
    return None


def _weight(module: Any) -> Iterable[torch.Tensor]:
    return [module.weight]


@dataclass(frozen=True)
class ModuleKinds:
    """Classes of the engine: its linear layers, its output head (perhaps an embedding too), its embedding.

    ``own_format``: of a linear layer, where the engine has one. ``read``: whole blocks of columns of such a layer's
    weight, (outputs, inputs), as the engine multiplies them.
    """

    linear: type[Any]
    head: type[Any]
    embedding: type[Any]
    own_format: Callable[[Any], OwnFormat | None] = _no_format
    read: Callable[[Any], Iterable[torch.Tensor]] = _weight


class HeldWeights:
    """The linear modules of an engine's model, and what each of them is in the plain model.

    ``modules``: its linear modules and output head, by name. ``layers`` describes the same, and a head that the engine
    did not make because it multiplies by the embedding: a policy may still name it. Shapes are of this worker's shard.
    ``own``: the formats of those that the engine executes in one. ``rounding``, by module, is given by :meth:`follow`.
    """

    def __init__(self, model: Any, kinds: ModuleKinds) -> None:
        self.modules: dict[str, Any] = {
            name: module for name, module in model.named_modules() if isinstance(module, kinds.linear | kinds.head)
        }
        own = {name: kinds.own_format(module) for name, module in self.modules.items()}
        self.own: dict[str, OwnFormat] = {name: found for name, found in own.items() if found is not None}
        self._read = kinds.read
        self.packed: Mapping[str, Any] = getattr(model, "packed_modules_mapping", None) or {}
        embeddings = [
            module
            for module in model.modules()
            if isinstance(module, kinds.embedding) and not isinstance(module, kinds.head)
        ]
        self.layers = [self._described(name, module, kinds, embeddings) for name, module in self.modules.items()]
        if embeddings and not any(layer.is_lm_head for layer in self.layers):
            outputs, inputs = embeddings[0].weight.shape
            self.layers.append(FusedLayer("lm_head", ("lm_head",), inputs, outputs, is_lm_head=True, tied=True))
        self.rounding: dict[str, Rounding] = {}

    def _described(self, name: str, module: Any, kinds: ModuleKinds, embeddings: list[Any]) -> FusedLayer:
        out_features, in_features = module.weight.shape[-2:] if module.weight.dim() >= 2 else (0, 0)
        if name in self.own:  # its weight may lie in any order
            out_features, in_features = module.output_size_per_partition, module.input_size_per_partition
        head = isinstance(module, kinds.head)
        tied = head and any(other.weight is module.weight for other in embeddings)
        return FusedLayer(name, sibling_names(name, self.packed), in_features, out_features, head, tied)

    def follow(self, rounding: Mapping[str, Rounding]) -> None:
        """Hold the modules to these roundings from now on; modules that are not named keep their weights as they come.

        Raises:
            AdoptionError: the engine holds a weight in a form that cannot be rounded, or looked at; or it executes a
                module in another format than its rounding's.
        """
        self.rounding = dict(rounding)
        for name, asked in self.rounding.items():
            if name in self.own:
                self._check_own(name, asked.format)
            elif name in self.modules and asked.quantised:
                self._check(name)

    @property
    def quantised(self) -> list[str]:
        """Modules whose weight has an MX format."""
        return [name for name in self.modules if name in self.rounding and self.rounding[name].quantised]

    def round(self, name: str) -> None:
        """Round a module's weight where it lies; one that the engine executes in its own format is left to it."""
        if name in self.rounding and self.rounding[name].quantised and name not in self.own:
            weight = self.modules[name].weight
            with torch.no_grad():
                weight.copy_(rounded(weight, self.rounding[name]))

    def off_grid(self) -> list[str]:
        """Modules whose weight is not what rounding it would give."""
        return [name for name in self.quantised if not self._lies_on_grid(name)]

    def _lies_on_grid(self, name: str) -> bool:
        module, rounding = self.modules[name], self.rounding[name]
        pieces = self._read(module) if name in self.own else _weight(module)
        return all(torch.equal(piece, rounded(piece, rounding)) for piece in pieces)

    def describe(self) -> dict[str, Any]:
        """Formats, projections and siblings by module: plain data for config.json."""
        return {
            "formats": {name: rounding.format for name, rounding in self.rounding.items()},
            "projected": {name: rounding.projected for name, rounding in self.rounding.items() if rounding.projected},
            "siblings": {layer.name: list(layer.siblings) for layer in self.layers},
            "own": {name: own.describe() for name, own in self.own.items()},
        }

    def _check_own(self, name: str, asked: str) -> None:
        own = self.own[name]
        if own.format != asked:
            raise AdoptionError(
                f"vLLM executes {name} in {own.format} by itself, but its rollout format is {asked}: start vLLM "
                "without that quantisation"
            )

    def _check(self, name: str) -> None:
        """Raises AdoptionError where the module's ``weight`` is not what the engine multiplies."""
        module = self.modules[name]
        method = type(getattr(module, "quant_method", None)).__name__
        if method not in _UNQUANTISED:
            raise AdoptionError(f"vLLM executes {name} by {method}: weights that it holds otherwise cannot be rounded")
        if module.weight.dim() != 2 or module.weight.numel() == 0:
            raise AdoptionError(
                f"vLLM packed the weight of {name} when it loaded it (shape {tuple(module.weight.shape)}): it can "
                "neither be synced nor rounded in place"
            )
        ranks = getattr(module, "tp_size", 1)
        block = get_format(self.rounding[name].format).block_size
        if ranks > 1 and type(module).__name__.startswith("Row") and module.weight.shape[1] % block:
            raise AdoptionError(
                f"tensor parallelism cuts {name} into {ranks} parts of {module.weight.shape[1]} inputs, not a multiple "
                f"of the block size {block}: use a smaller tensor parallel size"
            )


def rounded(weight: torch.Tensor, rounding: Rounding, dim: int = -1) -> torch.Tensor:
    """A copy of ``weight``, rounded to nearest along ``dim`` (its inputs), in its own dtype.

    Rounding twice changes nothing more, and an unquantised rounding nothing at all.
    """
    if not rounding.quantised:
        return weight
    return fake_quantize_(weight.detach(), rounding.format, dim, scale_rule=rounding.scale_rule)
