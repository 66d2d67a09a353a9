"""OpenRLHF's PPO trainer, the one process that sees steps: phases of the wall time, and everybody's books."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .run_spec import RunSpec

if TYPE_CHECKING:
    from .gathering import Gathering


def mx_trainer(original: type[Any], spec: RunSpec) -> type[Any]:
    """A subclass of OpenRLHF's ``PPOTrainer`` that gathers the actors' books after each step."""

    class MXPPOTrainer(original):  # type: ignore[misc]
        mx: Gathering

        def fit(self, *args: Any, **kwargs: Any) -> Any:
            from mx_openrlhf.gathering import Gathering

            with Gathering(spec, self) as self.mx:
                return super().fit(*args, **kwargs)

        def train_step(self, rollout_samples: Any, global_step: int) -> Any:
            self.mx.rolled_out(rollout_samples)
            status, step = super().train_step(rollout_samples, global_step)
            self.mx.step_ended(step, status)
            return status, step

        def ppo_train(self, global_steps: int) -> Any:
            with self.mx.phase("gradient"):
                return super().ppo_train(global_steps)

        def broadcast_to_vllm(self) -> None:
            super().broadcast_to_vllm()
            self.mx.check_rollout_weights()

    MXPPOTrainer.__name__ = original.__name__
    MXPPOTrainer.__qualname__ = original.__qualname__
    return MXPPOTrainer
