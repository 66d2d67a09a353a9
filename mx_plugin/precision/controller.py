"""``AdaptiveController``: precision policies from a program, without any framework's trainer."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from ..errors import AdoptionError, PluginError, PolicyError, nearest
from ..formats.spec import FP16, Pair, parse_pair
from ..interfaces import Backend, Handle
from .entry import canonical_entry, inner_phase
from .formats import LayerFormats
from .load import load_policy
from .matrix import SensitivityMatrix
from .max_cost import MaxCost
from .patterns import nearest_layer
from .policy import PrecisionPolicy
from .provider import PolicyProvider

if TYPE_CHECKING:
    from ..execution.engine import Engine
    from ..execution.freshness import Fingerprint, WriteWatch
    from ..execution.layer import AdoptedLayer


@dataclass
class _Loaded:
    """A weight in a backend, and what it looked like when it was packed."""

    backend: Backend
    handle: Handle
    seen: Fingerprint


class AdaptiveController:
    """Chooses formats by a policy, runs an attached model in them, and loads packed weights.

    Args:
        sensitivity_matrix, policy, max_cost, activations, scale_rule: as for ``load_policy``;
            ``policy`` may also be a :class:`PrecisionPolicy`.
        fpga_device: serial URL of the board that ``configure_fpga`` opens.
        backend: name of the backend that executes the model, or the backend itself.
        seed: of stochastic rounding.

    Raises:
        PolicyError, MatrixError: as ``load_policy``.
    """

    def __init__(
        self,
        sensitivity_matrix: SensitivityMatrix | str | Path | None = None,
        policy: str | Path | PrecisionPolicy = "D",
        max_cost: MaxCost | None = None,
        fpga_device: str | None = None,
        backend: str | Backend = "cpu",
        *,
        activations: str | None = None,
        scale_rule: str | None = None,
        seed: int = 0,
    ) -> None:
        self.policy = load_policy(
            policy,
            sensitivity_matrix=sensitivity_matrix,
            max_cost=max_cost,
            activations=activations,
            scale_rule=scale_rule,
        )
        self.provider = PolicyProvider(self.policy)
        self.fpga_device = fpga_device
        self.seed = seed
        self.board_format: Pair | None = None
        self._chosen = backend
        self._owned: dict[str, Backend] = {}
        self._engine: Engine | None = None
        self._watch: WriteWatch | None = None
        self._loaded: dict[tuple[str, str, str], _Loaded] = {}

    # ---------------------------------------------------------------- the model

    def attach(self, model: nn.Module, role: str = "policy") -> None:
        """Adopt the model's layers: from now on they run in the policy's formats, phase by phase.

        Raises:
            AdoptionError: something is attached already, or the model has nothing to adopt.
            PolicyError: the policy does not fit the model's layers.
            PluginError: the backend is not installed.
        """
        if self._engine is not None:
            raise AdoptionError("this controller already has a model attached: detach() it first")
        from ..execution.engine import Engine
        from ..execution.freshness import WriteWatch

        provider = PolicyProvider(self.policy)
        # Phases are named by the caller here, so each runs in exactly what get_precision says of it; a
        # trainer's rules for scoring passes of policy and reference belong to its adapter.
        engine = Engine(provider, self._main_backend(), seed=self.seed, policy_scoring="reward", reference="own")
        engine.adopt({role: model})
        self._engine, self.provider = engine, provider
        self._watch = WriteWatch([model], self._forget_weights, self._forget_weights)

    def detach(self) -> None:
        """Give the model its own layers back, unload weights and close what was opened; idempotent."""
        self._forget_weights()
        if self._watch is not None:
            self._watch.close()
        if self._engine is not None:
            self._engine.restore()
        self._watch, self._engine, self.provider = None, None, PolicyProvider(self.policy)
        for backend in self._owned.values():
            backend.close()
        self._owned.clear()
        self.board_format = None

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Run a ``with`` block in that phase (``rollout``, ``reward``, ``gradient``).

        Raises:
            PolicyError: no such phase.
            AdoptionError: no model is attached.
        """
        inner_phase(name)
        return self._attached(f"phase({name!r})").phase(name)

    def get_precision(self, layer_name: str, phase: str, role: str = "policy") -> LayerFormats:
        """Formats of a layer, or those shared by all layers below a prefix; equal to e.g. ``"MXFP4"``.

        Raises:
            PolicyError: unknown phase or role, unknown layer (once a model is attached), or layers
                below the prefix that differ.
        """
        return self.provider.get_precision(layer_name, phase, role)

    # ---------------------------------------------------------------- backends

    @property
    def chosen_backend(self) -> str | Backend:
        """``backend`` as it was given; opens nothing."""
        return self._chosen

    @property
    def backend(self) -> Backend:
        """The backend that ``load_quantized_weights`` loads into: the board once it is configured."""
        if self.board_format is not None:
            return self._owned["fpga"]
        return self._main_backend()

    def configure_fpga(self, precision: str) -> Backend:
        """Open the board at ``fpga_device`` and choose the format (a name or a pair) it multiplies in.

        Returns the board's backend, into which ``load_quantized_weights`` loads from now on.

        Raises:
            PolicyError: ``precision`` is not a block format.
            PluginError: no ``fpga_device``, no backend named ``fpga`` installed, or a format that
                the board does not have.
        """
        pair = self._block_pair(precision, "the board")
        if self.fpga_device is None:
            raise PluginError(
                "no board to configure: give AdaptiveController(fpga_device=...), the serial URL of a board"
            )
        opened = self._owned.get("fpga")
        board = opened or _open("fpga", url=self.fpga_device)
        try:
            _check_capable(board.name, "weights", pair.weights, board.capabilities.formats)
            _check_capable(board.name, "activations", pair.activations, (*board.capabilities.activations, FP16))
        except PluginError:
            if opened is None:
                board.close()
            raise
        if self.board_format not in (None, pair):
            self._forget_weights()
        self._owned["fpga"], self.board_format = board, pair
        return board

    def load_quantized_weights(self, layer_name: str, precision: str, role: str = "policy") -> Handle:
        """Quantise one layer's weight (out, in) along ``in`` and load it into ``backend``.

        The layer's own weight is not touched. The handle is kept per layer and format, and serves
        until the weight is written or the controller detached; then ask again.

        Raises:
            AdoptionError: no model is attached.
            PolicyError: unknown layer, or a precision that is not a block format.
            PluginError: the backend does not have the format, or the board is configured for another.
        """
        layer = self._layer(layer_name, role)
        pair = self._block_pair(precision, "a packed weight")
        backend = self.backend
        if self.board_format is not None and self.board_format.weights != pair.weights:
            raise PluginError(
                f"the board is configured for {self.board_format}, not for {pair.weights}: "
                f"call configure_fpga({pair.weights!r}) first"
            )
        _check_capable(backend.name, "weights", pair.weights, backend.capabilities.formats)
        return self._fresh(layer, pair.weights, backend)

    def _fresh(self, layer: AdoptedLayer, fmt: str, backend: Backend) -> Handle:
        from ..execution.freshness import Fingerprint

        key = (layer.role, layer.name, fmt)
        weight = layer.weight.detach()
        kept = self._loaded.get(key)
        if kept is not None and kept.backend is backend and kept.seen.matches(weight):
            return kept.handle
        if kept is not None:
            kept.backend.unload_weight(kept.handle)
        handle = backend.load_weight(backend.quantize(weight, fmt, -1, scale_rule=self.policy.scale_rule))
        self._loaded[key] = _Loaded(backend, handle, Fingerprint(weight))
        return handle

    def _forget_weights(self) -> None:
        for kept in self._loaded.values():
            kept.backend.unload_weight(kept.handle)
        self._loaded.clear()

    def _main_backend(self) -> Backend:
        if isinstance(self._chosen, Backend):
            return self._chosen
        if "main" not in self._owned:
            self._owned["main"] = _open(self._chosen)
        return self._owned["main"]

    def _attached(self, what: str) -> Engine:
        if self._engine is None:
            raise AdoptionError(f"{what} needs a model: call attach(model) first")
        return self._engine

    def _layer(self, name: str, role: str) -> AdoptedLayer:
        layers = {
            layer.name: layer
            for layer in self._attached(f"load_quantized_weights({name!r})").layers
            if layer.role == role
        }
        if name not in layers:
            raise PolicyError(f"no {role} layer is named {name!r}: {nearest_layer(name, layers)}")
        return layers[name]

    def _block_pair(self, precision: str, what: str) -> Pair:
        pair = parse_pair(canonical_entry(str(precision)), self.policy.activations)
        if pair.weights == FP16:
            raise PolicyError(f"{precision} is not a block format, which {what} needs; write e.g. MXFP8")
        return pair

    def __enter__(self) -> AdaptiveController:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()


def _open(name: str, **options: object) -> Backend:
    from ..plugins import get_backend

    return get_backend(name, **options)


def _check_capable(backend: str, what: str, fmt: str, able: tuple[str, ...]) -> None:
    if fmt not in able:
        raise PluginError(f"backend {backend} has no {what} in {fmt}: {nearest(fmt, dict.fromkeys(able))}")
