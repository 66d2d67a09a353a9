"""Other people's low-precision linear layers and casts, as rows of the same tables when they are installed.

Never required: what is missing is noted with the way to install it. A peer is a layer made from a bf16 weight of
shape (out, in) and called with bf16 activations of shape (rows, in); it can be deep-copied.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar

import torch

from mx_plugin.bench import Bench


class Peer(ABC):
    """A peer's linear layer. ``nbytes``: of the packed weight, scales included."""

    name: ClassVar[str]
    emulates: ClassVar[bool] = False
    """Decodes the weight and multiplies in high precision: many times slower, and no measure of a kernel."""
    nbytes: int

    @abstractmethod
    def __init__(self, weight: torch.Tensor) -> None: ...

    @abstractmethod
    def __call__(self, x: torch.Tensor) -> torch.Tensor: ...

    @classmethod
    def takes(cls, out: int, inner: int) -> bool:
        """Whether it multiplies a weight of this shape."""
        return True

    @classmethod
    def missing(cls) -> str:
        """What is not installed, and the remedy; empty when all is."""
        return ""


class Int4Pack(Peer):
    """torch's int4 weight-only product: asymmetric, one bf16 scale and zero for 32 weights; activations stay bf16."""

    name = "torch int4pack"
    _GROUP: ClassVar[int] = 32

    @classmethod
    def takes(cls, out: int, inner: int) -> bool:
        return out % 16 == 0 and inner % cls._GROUP == 0

    def __init__(self, weight: torch.Tensor) -> None:
        out, inner = weight.shape
        groups = weight.float().reshape(out, inner // self._GROUP, self._GROUP)
        low, high = groups.amin(-1), groups.amax(-1)
        scale = ((high - low) / 15).clamp(min=1e-6)
        codes = ((groups - low[..., None]) / scale[..., None]).round().clamp(0, 15)
        codes = codes.reshape(out, inner).to(torch.int32)
        self.codes = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
        # w = (code - 8) * scale + zero, as torch has it; (groups, out, 2).
        self.scales = torch.stack([scale, low + 8 * scale], -1).transpose(0, 1).contiguous().bfloat16()
        self.nbytes = self.codes.nbytes + self.scales.nbytes
        self.call = torch.ops.aten._weight_int4pack_mm_for_cpu

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.call(x, self.codes, self._GROUP, self.scales)
        return y

    def __deepcopy__(self, memo: Any) -> Int4Pack:  # an operator cannot be copied
        twin = copy.copy(self)
        twin.codes, twin.scales = self.codes.clone(), self.scales.clone()
        return twin

    @classmethod
    def missing(cls) -> str:
        """These operators are torch's own, and private: another version may not have them."""
        if hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu"):
            return ""
        return f"torch {torch.__version__} has no _weight_int4pack_mm_for_cpu: torch 2.6 and later have"


class NF4(Peer):
    """bitsandbytes' 4-bit layer, NF4 in blocks of 64; activations stay bf16."""

    name = "bitsandbytes NF4"

    def __init__(self, weight: torch.Tensor) -> None:
        import bitsandbytes

        out, inner = weight.shape
        self.layer = bitsandbytes.nn.Linear4bit(
            inner, out, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4"
        ).eval()
        self.layer.weight = bitsandbytes.nn.Params4bit(weight, requires_grad=False, quant_type="nf4", blocksize=64)
        self.layer.to("cpu")  # this is what quantises
        with torch.no_grad():
            self.layer(weight[:1])  # and this is what packs for the processor
        packed = self.layer.weight
        self.nbytes = packed.nbytes + packed.quant_state.absmax.nbytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layer(x)
        return y

    @classmethod
    def missing(cls) -> str:
        return "" if find_spec("bitsandbytes") else "bitsandbytes is not installed: pip install bitsandbytes"


class TorchaoMXFP8(Peer):
    """torchao's MX layer, weights and activations in one format; on a CPU it emulates."""

    name = "torchao MXFP8 emulated"
    emulates = True
    _ELEMENT: ClassVar[str] = "float8_e4m3fn"

    def __init__(self, weight: torch.Tensor) -> None:
        from torchao.prototype.mx_formats import MXDynamicActivationMXWeightConfig
        from torchao.quantization import quantize_
        from torchao.quantization.quantize_.common import KernelPreference

        element = getattr(torch, self._ELEMENT)
        config = MXDynamicActivationMXWeightConfig(
            activation_dtype=element, weight_dtype=element, kernel_preference=KernelPreference.EMULATED
        )
        self.layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.bfloat16)
        self.layer.weight = torch.nn.Parameter(weight.clone(), requires_grad=False)
        quantize_(self.layer, config)
        packed: Any = self.layer.weight
        self.nbytes = packed.qdata.nbytes + packed.scale.nbytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layer(x)
        return y

    @classmethod
    def missing(cls) -> str:
        return "" if find_spec("torchao") else "torchao is not installed: pip install torchao"


class TorchaoMXFP4(TorchaoMXFP8):
    """The same in MXFP4, activations too."""

    name = "torchao MXFP4 emulated"
    _ELEMENT = "float4_e2m1fn_x2"


LINEAR: tuple[type[Peer], ...] = (Int4Pack, NF4, TorchaoMXFP4, TorchaoMXFP8)


def linear_peers(bench: Bench) -> list[type[Peer]]:
    """Those that are here; the others are noted, each remedy once. They are made for a CPU as they stand here."""
    if bench.device != "cpu":
        return []
    _note(bench, [kind.missing() for kind in LINEAR])
    return [kind for kind in LINEAR if not kind.missing()]


# ---------------------------------------------------------------------------- casts


@dataclass(frozen=True)
class PeerCast:
    """A peer's packing of x along its last dimension; ``bits``: of one element when packed, scale included."""

    name: str
    cast: Callable[[torch.Tensor], object]
    bits: float


def cast_peers(bench: Bench) -> list[PeerCast]:
    """Those that are here; the others are noted, each remedy once. On a CPU only, as those of ``linear_peers``."""
    if bench.device != "cpu":
        return []
    _note(bench, [TorchaoMXFP4.missing(), NF4.missing()])
    peers: list[PeerCast] = []
    if not TorchaoMXFP4.missing():
        from torchao.prototype.mx_formats.mx_tensor import ScaleCalculationMode, to_mx

        for name, element, bits in (("MXFP4", "float4_e2m1fn_x2", 4.25), ("MXFP8", "float8_e4m3fn", 8.25)):
            peers.append(PeerCast(f"torchao {name}", _Torchao(to_mx, element, ScaleCalculationMode.RCEIL), bits))
    if not NF4.missing():
        from bitsandbytes.functional import quantize_4bit

        peers.append(PeerCast("bitsandbytes NF4", _Bitsandbytes(quantize_4bit), 4.5))
    return peers


@dataclass(frozen=True)
class _Torchao:
    to_mx: Callable[..., object]
    element: str
    scaling: object

    def __call__(self, x: torch.Tensor) -> object:
        return self.to_mx(x, getattr(torch, self.element), 32, scaling_mode=self.scaling)


@dataclass(frozen=True)
class _Bitsandbytes:
    quantize: Callable[..., object]

    def __call__(self, x: torch.Tensor) -> object:
        return self.quantize(x, blocksize=64, quant_type="nf4")


def _note(bench: Bench, reasons: list[str]) -> None:
    for reason in dict.fromkeys(reasons):
        if reason and not any(reason in note for note in bench.notes):
            bench.note(f"no row of a peer: {reason}")
