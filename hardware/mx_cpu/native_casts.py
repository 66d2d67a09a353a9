"""Casts by the native kernels: bit-identical to ``mx_plugin.formats``."""

from __future__ import annotations

import torch

from mx_plugin import formats
from mx_plugin.errors import FormatError
from mx_plugin.formats import MXTensor
from mx_plugin.formats.blocks import Layout, checked_dim
from mx_plugin.formats.cast import StochasticKey
from mx_plugin.formats.packing import row_bytes
from mx_plugin.formats.rules import CastRule, cast_rule
from mx_plugin.formats.spec import Format
from mx_plugin.interfaces import BoundCast

from .library import BLOCK, TYPES, Cast, Decode, Key, Library, Rule, table_of
from .native_weight import native_format

_get_threads = torch.get_num_threads
_NO_KEY = Key()


class NativeCasts:
    """``quantize``, ``fake_quantize`` and ``dequantize`` on CPU tensors.

    What the kernels do not know - other devices, other block sizes, float64, recording a gradient - goes to
    the core's own functions, which give the same bits.
    """

    def __init__(self, native: Library) -> None:
        self._native = native
        self._rules: dict[CastRule, Rule] = {}

    def rule(self, rule: CastRule) -> Rule:
        """The C struct of a rule, made once."""
        found = self._rules.get(rule)
        if found is None:
            found = self._rules[rule] = Rule.of(rule)
        return found

    def quantize(
        self, x: torch.Tensor, fmt: str | Format, dim: int, rounding: str, scale_rule: str, key: StochasticKey | None
    ) -> MXTensor:
        """``mx_plugin.quantize``."""
        rule = cast_rule(fmt, rounding, scale_rule)
        if not _takes(x, rule, key) or not x.numel():
            return formats.quantize(x, fmt, dim, rounding=rounding, scale_rule=scale_rule, key=key)
        layout = Layout(x.shape, checked_dim(x, dim), BLOCK)
        elements = torch.empty((layout.rows, row_bytes(layout.length, rule.format.element.bits)), dtype=torch.uint8)
        scales = torch.empty((layout.rows, layout.blocks), dtype=torch.uint8)
        job, source = self._job(x, rule, layout.dim, key)
        job.elements, job.scales = elements.data_ptr(), scales.data_ptr()
        self._native.cast(job)
        del source
        return MXTensor(elements, scales, rule.format, x.shape, layout.dim, x.dtype)

    def fake_quantize(
        self,
        x: torch.Tensor,
        fmt: str | Format,
        dim: int,
        rounding: str,
        scale_rule: str,
        key: StochasticKey | None,
        hadamard: StochasticKey | None,
        out: torch.Tensor | None,
    ) -> torch.Tensor:
        """``mx_plugin.fake_quantize``."""
        rule = cast_rule(fmt, rounding, scale_rule)
        records = x.requires_grad and torch.is_grad_enabled()
        if out is not None and not records and x.is_cpu and x.numel() and not out.is_contiguous():
            staged = torch.empty(out.shape, dtype=out.dtype)
            return out.copy_(self.fake_quantize(x, fmt, dim, rounding, scale_rule, key, hadamard, staged))
        if records or not _takes(x, rule, key) or not x.numel() or not (out is None or _writable(out, x)):
            return formats.fake_quantize(
                x, fmt, dim, rounding=rounding, scale_rule=scale_rule, key=key, hadamard=hadamard, out=out
            )
        dim = checked_dim(x, dim)
        job, source = self._job(x, rule, dim, key)
        shape = x.shape
        if hadamard is not None:
            job.hadamard = Key.of(hadamard)
            job.out_length = -(-job.length // BLOCK) * BLOCK
            shape = torch.Size((*shape[:dim], job.out_length, *shape[dim + 1 :]))
        if out is not None and out.shape != shape:
            raise FormatError(f"out has shape {tuple(out.shape)}, the result {tuple(shape)}")
        result = torch.empty(shape, dtype=x.dtype) if out is None else out
        job.values, job.values_type = result.data_ptr(), TYPES[result.dtype]
        self._native.cast(job)
        del source
        return result

    def bind(self, fmt: str, dim: int, rounding: str, scale_rule: str) -> BoundCast:
        """``fake_quantize`` of matrices into ``out``, with its rule looked up; what else comes goes the general way."""
        rule = cast_rule(fmt, rounding, scale_rule)
        stochastic, along, run = rule.stochastic, dim in (-1, 1), self._native.cast
        known = rule.block_size == BLOCK and dim in (-2, -1, 0, 1)
        idle: list[Cast] = []  # structs that no call is using: as many as calls ever ran at once

        def bound(
            x: torch.Tensor, out: torch.Tensor | None, key: StochasticKey | None, hadamard: StochasticKey | None
        ) -> torch.Tensor:
            order = None
            if known and out is not None and stochastic is (key is not None):
                order = _order(x, out, along, hadamard is not None, stochastic)
            if order is None or out is None:
                return self.fake_quantize(x, fmt, dim, rounding, scale_rule, key, hadamard, out)
            try:
                job = idle.pop()
            except IndexError:
                job = Cast()
                job.rule = self.rule(rule)
            job.before, job.length, job.after, job.out_length, job.transposed = order
            if stochastic:
                job.rounding = Key.of(key)
            job.hadamard = _NO_KEY if hadamard is None else Key.of(hadamard)
            job.source, job.source_type = x.data_ptr(), TYPES[x.dtype]
            job.values, job.values_type = out.data_ptr(), TYPES[out.dtype]
            job.threads = _get_threads()
            run(job)
            idle.append(job)
            return out

        return bound

    def dequantize(self, packed: MXTensor, out: torch.Tensor, ordinary: bool = False) -> torch.Tensor:
        """Decode a tensor that is blocked along its last dimension into ``out`` (contiguous, its shape).

        ``ordinary``: it is known to have no extreme scales and no codes that a cast never makes.
        """
        job = Decode()
        job.rule = self.rule(cast_rule(packed.format))
        job.table = table_of(packed.format.element).data_ptr()
        elements, scales = packed.elements.contiguous(), packed.scales.contiguous()
        job.elements, job.scales, job.values = elements.data_ptr(), scales.data_ptr(), out.data_ptr()
        job.rows, job.length = elements.shape[0], packed.shape[-1]
        job.values_type, job.threads = TYPES[out.dtype], torch.get_num_threads()
        job.ordinary = ordinary
        if packed.numel():
            self._native.decode(job)
        return out

    def decoded(self, packed: MXTensor, dtype: torch.dtype, out: torch.Tensor | None, ordinary: bool) -> torch.Tensor:
        """``packed.dequantize(dtype)``: in ``out`` or a new tensor; for ``ordinary`` see ``dequantize``."""
        last, known = packed.dim == len(packed.shape) - 1, native_format(packed.format.name)
        if not (last and known) or packed.device.type != "cpu" or dtype not in TYPES:
            values = packed.dequantize(dtype)
            return values if out is None else out.copy_(values)
        if out is None:
            return self.dequantize(packed, torch.empty(packed.shape, dtype=dtype), ordinary)
        if out.is_contiguous():
            return self.dequantize(packed, out, ordinary)
        return out.copy_(self.dequantize(packed, torch.empty(packed.shape, dtype=dtype), ordinary))

    def _job(self, x: torch.Tensor, rule: CastRule, dim: int, key: StochasticKey | None) -> tuple[Cast, torch.Tensor]:
        """The C struct without its results, and the tensor that it reads, to be kept alive."""
        source = x.contiguous()
        job = Cast()
        job.rule = self.rule(rule)
        if rule.stochastic:
            job.rounding = Key.of(key)
        shape = x.shape
        job.source, job.source_type = source.data_ptr(), TYPES[x.dtype]
        job.before, job.length, job.after = shape[:dim].numel(), shape[dim], shape[dim + 1 :].numel()
        job.out_length = job.length
        job.threads = torch.get_num_threads()
        return job, source


def _takes(x: torch.Tensor, rule: CastRule, key: StochasticKey | None) -> bool:
    """What else goes to the core, which also words the errors."""
    return (
        x.device.type == "cpu"
        and x.dtype in TYPES
        and x.dim() > 0
        and rule.block_size == BLOCK
        and not (rule.stochastic and key is None)
    )


def _writable(out: torch.Tensor, x: torch.Tensor) -> bool:
    """A result that the kernels can write, not overlapping a source of another width."""
    if out.device.type != "cpu" or out.dtype not in TYPES or not out.is_contiguous():
        return False
    return out.dtype == x.dtype or out.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()


def _order(
    x: torch.Tensor, out: torch.Tensor, along: bool, rotated: bool, stochastic: bool
) -> tuple[int, int, int, int, int] | None:
    """(before, length, after, out_length, transposed) of a CPU matrix that the kernels cast as it lies, else None."""
    shape = x.shape
    if len(shape) != 2 or not x.is_cpu or not out.is_cpu or x.dtype not in TYPES or out.dtype not in TYPES:
        return None
    rows, columns = shape
    if not rows or not columns or (x.requires_grad and torch.is_grad_enabled()):
        return None
    length, others = (columns, rows) if along else (rows, columns)
    out_length = -(-length // BLOCK) * BLOCK if rotated else length
    if out.shape != ((rows, out_length) if along else (out_length, columns)):
        return None
    if not (x.is_contiguous() and out.is_contiguous()):
        if not out.t().is_contiguous():
            return None
        if x.is_contiguous():
            # Written transposed, for the left operand of a product over rows.
            return None if along or out.dtype.itemsize != 2 else (1, length, others, out_length, 1)
        # Both transposed: the same blocks in the other order. Draws are counted in x's order, so they cannot.
        if stochastic or not x.t().is_contiguous():
            return None
        along = not along
    return (others, length, 1, out_length, 0) if along else (1, length, others, out_length, 0)
