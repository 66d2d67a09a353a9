"""Subclasses of OpenRLHF's four model actors that run MX in their own process.

Ray's classes travel by value from the driver, with inherited methods frozen in, so nothing can be patched inside a
worker: the driver's modules get subclasses before any actor is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .run_spec import RunSpec

if TYPE_CHECKING:
    from mx_plugin.ledger import EnergyRow

    from .process import MXProcess

MODEL_ACTORS = {
    "ReferenceModelActor": "reference",
    "RewardModelActor": "reward",
    "PolicyModelActor": "policy",
    "CriticModelActor": "value",
}
"""Class of OpenRLHF -> role of its model."""


def plain_model(holder: Any) -> Any:
    """The Hugging Face module inside OpenRLHF's ``Actor`` and DeepSpeed's engine."""
    if type(holder).__name__ == "Actor":
        holder = holder.model
    return getattr(holder, "module", holder)


def mx_actor(original: type[Any], role: str, spec: RunSpec) -> type[Any]:
    """A subclass of a model actor that adopts its model once it is loaded, and can be asked for its books."""

    class MXActor(original):  # type: ignore[misc]
        mx: MXProcess

        def init_model_from_pretrained(self, strategy: Any, *args: Any, **kwargs: Any) -> Any:
            result = super().init_model_from_pretrained(strategy, *args, **kwargs)
            from mx_openrlhf.process import MXProcess

            holder = next(held for name in ("actor", "critic", "model") if (held := getattr(self, name, None)))
            self.mx = MXProcess(spec.config, {role: plain_model(holder)}, seed=int(strategy.args.train.seed))
            return result

        def execute_batch(self, method_name: str, *args: Any, **kwargs: Any) -> Any:
            # Also called for "append", which fills the replay buffer.
            if method_name == "forward":
                self.mx.expected.add((role, "reward"))
            try:
                return super().execute_batch(method_name, *args, **kwargs)
            finally:
                self.mx.rest()

        def mx_step_ended(self, step: int) -> list[EnergyRow]:
            return self.mx.step_ended(step)

        def mx_check_hits(self) -> None:
            self.mx.check_hits()

        def mx_describe(self) -> dict[str, Any]:
            return self.mx.describe()

        def mx_layers(self) -> dict[str, tuple[str, int]]:
            """Layer -> (format of its weights in rollout, MACs per token)."""
            engine = self.mx.engine
            return {
                layer.name: (engine.formats(layer, "rollout").weights, layer.in_features * layer.out_features)
                for layer in engine.layers
            }

    if role in ("policy", "value"):

        def fit(self: Any, *args: Any, **kwargs: Any) -> Any:
            self.mx.expected.add((role, "gradient"))
            try:
                return super(MXActor, self).fit(*args, **kwargs)
            finally:
                # DeepSpeed writes the weights itself, after the step of the optimiser that torch's hooks see.
                self.mx.engine.invalidate(role)
                self.mx.rest()

        MXActor.fit = fit  # type: ignore[attr-defined]
    MXActor.__name__ = original.__name__
    MXActor.__qualname__ = original.__qualname__
    return MXActor
