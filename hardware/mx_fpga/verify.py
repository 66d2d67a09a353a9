"""Mode ``verify``: another backend executes, and a sampled share of its products is repeated on the board.

Board and ``emulate`` must agree bit for bit, the executing backend within its bound. What training sees is the
executing backend's result alone.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from mx_plugin import formats
from mx_plugin.errors import FormatError, PluginError, PolicyError, nearest
from mx_plugin.formats import MXTensor
from mx_plugin.formats.cast import StochasticKey
from mx_plugin.formats.spec import canonical
from mx_plugin.interfaces import Backend, BoundCast, BoundLinear, Capabilities, Counters, Handle, MatrixProduct
from mx_plugin.plugins import get_backend

from . import emulation
from .activations import as_rows
from .backend import board_traffic
from .compare import Difference, allowed_error, compare_bits, compare_within
from .elements import FORMATS
from .emulation import EmulatedWeight
from .errors import BoardError, DoesNotFit
from .lazy_board import LazyBoard
from .weights import BoardWeight

log = logging.getLogger(__name__)

_SHOWN = 5
"""Mismatches that are logged one by one; all are counted."""


@dataclass
class Findings:
    """What was mirrored and what differed. Elements are entries of Y. ``worst_error``: largest error of the executing
    backend in units of what is allowed. ``unmirrored_calls``: those that no board can multiply."""

    mirrored_calls: int = 0
    mirrored_tokens: int = 0
    board_elements: int = 0
    board_mismatches: int = 0
    executor_elements: int = 0
    executor_mismatches: int = 0
    unmirrored_calls: int = 0
    worst_error: float = 0.0


class VerifiedWeight:
    """A weight in the executing backend, and what is needed to mirror it."""

    def __init__(self, handle: Handle, packed: MXTensor) -> None:
        self.handle = handle
        self.packed = packed
        self.emulated = EmulatedWeight(packed)
        self.on_board: BoardWeight | None = None
        self.why_not_on_board = ""
        self.calls = 0


class VerifyBackend(Backend):
    """Everything is the executing backend's; ``linear`` is watched.

    Args:
        executor: name of the executing backend.
        board: where products are repeated.
        share: of calls that are mirrored, in (0, 1]; the first of every weight always is.
        tokens: rows of a mirrored call at most, spread evenly over it.
        on_mismatch: ``warn`` or ``fail``.

    Raises:
        PolicyError: a value outside its range.
        PluginError: no such backend, or ``fpga`` itself.
    """

    name = "fpga"

    def __init__(
        self, executor: str, board: LazyBoard, *, share: float = 0.05, tokens: int = 8, on_mismatch: str = "warn"
    ) -> None:
        if not 0.0 < share <= 1.0:
            raise PolicyError(f"share={share} must lie in (0, 1]")
        if tokens < 1:
            raise PolicyError(f"tokens={tokens} must be at least 1")
        if on_mismatch not in ("warn", "fail"):
            raise PolicyError(f"on_mismatch={on_mismatch!r} is not a choice: {nearest(on_mismatch, ('warn', 'fail'))}")
        if executor == self.name:
            raise PluginError("verify compares the board with another backend; executor='fpga' is itself")
        self.board = board
        self.findings = Findings()
        self._executor = get_backend(executor)
        self._share, self._tokens, self._on_mismatch = share, tokens, on_mismatch
        self._lock = threading.RLock()
        self._told: set[str] = set()
        self._shown = 0
        self._closed = False

    # ------------------------------------------------------------------ the executing backend's

    @property
    def capabilities(self) -> Capabilities:
        """The executing backend's."""
        return self._executor.capabilities

    def quantize(
        self,
        x: torch.Tensor,
        fmt: str,
        dim: int = -1,
        *,
        rounding: str = "nearest",
        scale_rule: str = "floor",
        key: StochasticKey | None = None,
    ) -> MXTensor:
        """The executing backend's, bit-identical to ``mx_plugin.quantize``."""
        return self._executor.quantize(x, fmt, dim, rounding=rounding, scale_rule=scale_rule, key=key)

    def fake_quantize(
        self,
        x: torch.Tensor,
        fmt: str,
        dim: int = -1,
        *,
        rounding: str = "nearest",
        scale_rule: str = "floor",
        key: StochasticKey | None = None,
        hadamard: StochasticKey | None = None,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The executing backend's."""
        return self._executor.fake_quantize(
            x, fmt, dim, rounding=rounding, scale_rule=scale_rule, key=key, hadamard=hadamard, out=out
        )

    def bind_cast(self, fmt: str, dim: int = -1, *, rounding: str = "nearest", scale_rule: str = "floor") -> BoundCast:
        """The executing backend's."""
        return self._executor.bind_cast(fmt, dim, rounding=rounding, scale_rule=scale_rule)

    def bfloat16_product(self, device: torch.device) -> MatrixProduct | None:
        """The executing backend's."""
        return self._executor.bfloat16_product(device)

    def dequantize(self, packed: MXTensor, dtype: torch.dtype, out: torch.Tensor | None = None) -> torch.Tensor:
        """The executing backend's."""
        return self._executor.dequantize(packed, dtype, out)

    def product_dtype(self, model_dtype: torch.dtype) -> torch.dtype:
        """The executing backend's."""
        return self._executor.product_dtype(model_dtype)

    def weight_bytes(self, packed: MXTensor, model_dtype: torch.dtype) -> int:
        """The executing backend's."""
        return self._executor.weight_bytes(packed, model_dtype)

    # ------------------------------------------------------------------ weights and products

    def load_weight(self, packed: MXTensor) -> VerifiedWeight:
        """Load it into the executing backend; onto the board when a product is first mirrored."""
        return VerifiedWeight(self._executor.load_weight(packed), packed)

    def unload_weight(self, handle: Handle) -> None:
        """Forget a weight in all places."""
        weight = self._own(handle)
        self._executor.unload_weight(weight.handle)
        weight.emulated.forget()
        if weight.on_board is not None and self.board.opened is not None:
            self.board.opened.unload_weight(weight.on_board)
        weight.on_board = None

    def linear(
        self,
        x: torch.Tensor,
        handle: Handle,
        bias: torch.Tensor | None = None,
        activations: str = "MXFP8",
        *,
        scale_rule: str = "floor",
    ) -> torch.Tensor:
        """The executing backend's result.

        Raises:
            BoardError: the board failed, unless ``on_failure="emulate"``; or results differ and ``on_mismatch="fail"``.
        """
        return self.bind(handle, activations, scale_rule)(x, bias)

    def bind(self, handle: Handle, activations: str, scale_rule: str) -> BoundLinear:
        """The executing backend's, watched."""
        weight = self._own(handle)
        execute = self._executor.bind(weight.handle, activations, scale_rule)
        fmt = canonical(activations)

        def bound(x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            y = execute(x, bias)
            if self._due(weight):
                with self._lock:
                    self._mirror(weight, fmt, scale_rule, x, bias, y)
            return y

        return bound

    def _due(self, weight: VerifiedWeight) -> bool:
        """The first call of a weight, then every 1/share-th: the same ones in every run."""
        calls, weight.calls = weight.calls, weight.calls + 1
        return calls == 0 or int(calls * self._share) > int((calls - 1) * self._share)

    def _mirror(
        self,
        weight: VerifiedWeight,
        fmt: str,
        scale_rule: str,
        x: torch.Tensor,
        bias: torch.Tensor | None,
        y: torch.Tensor,
    ) -> None:
        rows = as_rows(x, weight.packed.shape)
        if not rows.shape[0]:
            return
        if fmt not in FORMATS or weight.packed.format.name not in FORMATS:
            self.findings.unmirrored_calls += 1
            self._tell_once(
                f"products of {weight.packed.format.name}/{fmt} cannot be verified: no board multiplies them"
            )
            return
        chosen = torch.linspace(0, rows.shape[0] - 1, min(self._tokens, rows.shape[0])).round().long().to(rows.device)
        packed = formats.quantize(rows[chosen], fmt, -1, scale_rule=scale_rule).to("cpu")
        emulated = emulation.product(packed, weight.emulated)
        found = self.findings
        found.mirrored_calls += 1
        found.mirrored_tokens += len(chosen)
        answered = self._on_board(weight, packed)
        if answered is not None:
            difference = compare_bits(answered, emulated)
            found.board_elements += difference.compared
            found.board_mismatches += difference.count
            self._judge("board and emulate", weight, fmt, difference)
        bias = None if bias is None else bias.cpu()
        allowed = allowed_error(packed, weight.packed.to("cpu"), bias, self.capabilities.exactness, y.dtype)
        executed = y.detach().reshape(-1, y.shape[-1])[chosen]
        difference = compare_within(executed, emulated, bias, allowed)
        found.executor_elements += difference.compared
        found.executor_mismatches += difference.count
        found.worst_error = max(found.worst_error, difference.worst)
        self._judge(f"backend {self._executor.name} and the board's arithmetic", weight, fmt, difference)

    def _on_board(self, weight: VerifiedWeight, x: MXTensor) -> Any:
        """The board's answer, or None where it has none to give."""
        if weight.why_not_on_board:
            return None
        try:
            board = self.board.get()
            if board is None:
                return None
            if weight.on_board is None:
                weight.on_board = board.load_weight(weight.packed, now=False)
            return board.run(weight.on_board, x)
        except (DoesNotFit, FormatError) as error:
            weight.why_not_on_board = str(error)
            self._tell_once(f"a weight is compared with emulate alone: {error}")
        except BoardError as error:
            self.board.failed(error)
        return None

    def _judge(self, what: str, weight: VerifiedWeight, fmt: str, difference: Difference) -> None:
        """Raises BoardError for a mismatch that must be fatal."""
        if not difference.count:
            return
        shape = " x ".join(map(str, weight.packed.shape))
        message = (
            f"verify: {what} differ in {difference.count} of {difference.compared} elements of a {shape} layer, "
            f"{weight.packed.format.name}/{fmt}; {difference.first}"
        )
        if self._on_mismatch == "fail":
            raise BoardError(message)
        self._shown += 1
        if self._shown <= _SHOWN:
            log.warning("%s%s", message, "; further ones are only counted" if self._shown == _SHOWN else "")

    def _tell_once(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            log.warning("%s", message)

    def _own(self, handle: Handle) -> VerifiedWeight:
        if not isinstance(handle, VerifiedWeight):
            raise PluginError(f"{handle!r:.80} is not a weight loaded into this backend: use what load_weight returned")
        return handle

    # ------------------------------------------------------------------ books

    def counters(self) -> Counters:
        """The executing backend's; ``extra`` has the findings (``verify_...``) and the board's traffic."""
        now = self._executor.counters()
        now.extra.update({f"verify_{name}": float(value) for name, value in asdict(self.findings).items()})
        now.extra.update(board_traffic(self.board))
        return now

    def describe(self) -> Mapping[str, Any]:
        """Plain data for config.json: who executes, what was mirrored, what differed."""
        return {
            "backend": self.name,
            "mode": "verify",
            "executor": dict(self._executor.describe()),
            "share": self._share,
            "tokens": self._tokens,
            "on_mismatch": self._on_mismatch,
            "findings": asdict(self.findings),
            **self.board.describe(),
        }

    def conclusion(self) -> str:
        """What was mirrored, and what differed."""
        found = self.findings
        text = (
            f"verify: {found.mirrored_calls} calls ({found.mirrored_tokens} tokens) mirrored; board and emulate differ "
            f"in {found.board_mismatches} of {found.board_elements} elements, backend {self._executor.name} leaves its "
            f"bound in {found.executor_mismatches} of {found.executor_elements}"
        )
        return f"{text}; the board was given up: {self.board.gave_up}" if self.board.gave_up else text

    def close(self) -> None:
        """Say what was found, and close both; idempotent."""
        if self.findings.mirrored_calls and not self._closed:
            found = self.findings
            level = logging.WARNING if found.board_mismatches or found.executor_mismatches else logging.INFO
            log.log(level, "%s", self.conclusion())
        self._closed = True
        self.board.close()
        self._executor.close()
