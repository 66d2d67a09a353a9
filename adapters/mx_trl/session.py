"""One ``train()`` under MX: adopt, follow, book, restore."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mx_plugin.config import MXConfig
from mx_plugin.errors import PolicyError, UnhitLayersError, nearest
from mx_plugin.execution.backend_choice import automatic
from mx_plugin.execution.engine import Engine
from mx_plugin.execution.phases import GRADIENT, OTHER, ROLLOUT, TRACKER
from mx_plugin.interfaces import Backend
from mx_plugin.plugins import get_backend
from mx_plugin.precision.provider_choice import make_provider

from .attention import counting_attention
from .books import Books
from .correction import rollout_correction
from .critic_metrics import critic_metrics
from .distributed.formats import agree_on_formats, shared_provider
from .distributed.ranks import RanksError, join_ranks
from .distributed.sharding import refuse_unreachable_weights
from .gate import MismatchError, MismatchProbe
from .generation import backward_phase, evaluation_phase, rollout_phase
from .release import release_frozen
from .roles import find_roles
from .samples import Sample
from .vllm import VLLMRollouts, vllm_rollouts
from .writers import peft_writes, reference_syncs, refuse_reentrant_checkpointing

if TYPE_CHECKING:
    from transformers import TrainerState

    from .callback import MXCallback

log = logging.getLogger(__name__)


class Session:
    """Everything that lives for one ``train()`` of one trainer."""

    def __init__(self, callback: MXCallback, trainer: Any) -> None:
        self.callback = callback
        self.config: MXConfig = callback.config
        self.trainer = trainer
        self._stack = ExitStack()
        self._backends: dict[str, Backend] = {}
        self._measured_step: int | None = None
        self._first_step_checked = False
        self._measures_kl = True
        self.vllm: VLLMRollouts | None = None

    # ------------------------------------------------------------------ begin and end

    def __enter__(self) -> Session:
        with self._stack:
            self._enter()
            self._stack = self._stack.pop_all()
        return self

    def _enter(self) -> None:
        trainer, config = self.trainer, self.config
        self.ranks = join_ranks(trainer)
        self._stack.callback(self.ranks.close)
        self.roles = find_roles(trainer)
        refuse_unreachable_weights(trainer, self.roles.models)
        default = backend_name(config, trainer)
        refuse_options_of_others(config, default)
        refuse_reentrant_checkpointing(trainer, self.roles.models)
        provider = shared_provider(self.ranks, config, make_provider)
        policy = self.roles.models.get("policy")
        self.vllm = vllm_rollouts(trainer, policy, provider, config.on_unhit)
        self.engine = Engine(
            provider if self.vllm is None else self.vllm.provider,
            self._backend(default),
            {pattern: self._backend(name) for pattern, name in config.backend_patterns().items()},
            seed=int(getattr(trainer.args, "seed", 0)),
            policy_scoring=self._policy_scoring(),
            reference=config.reference,
            match_phase=self.roles.logprob_phase,
            gradient_product_dtype=config.gradient_product_dtype,
            rank=self.ranks.index,
            ranks=self.ranks.size,
            rolls_out_elsewhere=self.vllm is not None,
        )
        self.books = Books(self)
        self._stack.callback(self.books.close)
        # The ledger hears of a phase before the engine, so that packing is booked under the phase that needs it.
        TRACKER.subscribe(self.books.ledger.switch)
        self._stack.callback(TRACKER.unsubscribe, self.books.ledger.switch)
        self.engine.adopt(self.roles.models)
        self._stack.callback(self.engine.restore)
        agree_on_formats(self.ranks, self.engine)
        self._stack.enter_context(counting_attention(self.roles.models, self.engine.work.add))
        self._stack.enter_context(peft_writes(self.roles.models, self.engine.invalidate))
        self._stack.enter_context(evaluation_phase(trainer))
        self._stack.enter_context(backward_phase(trainer))
        self._stack.enter_context(rollout_correction(trainer, config, self.engine.rollout_differs()))
        value = self.roles.models.get("value")
        self._stack.enter_context(critic_metrics(trainer, value, lambda found: self.books.measured.update(found)))
        self.probe: MismatchProbe | None = None
        if policy is not None:
            self.probe = MismatchProbe(self.engine, self.roles, config, trainer, self.ranks)
            self._stack.enter_context(rollout_phase(policy, self._generated))
        if self.vllm is not None:
            self.vllm.dtype = self.ranks.agreed("the dtype of vLLM", self.vllm.dtype)
            self.vllm.quantised_by = self.ranks.agreed("the quantisation of vLLM's server", self.vllm.quantised_by)
            self._stack.enter_context(self.vllm.followed(trainer, self.engine.layers, self._rolled_out))
        self.books.ledger.start(OTHER)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if self.config.release_frozen:
                self._take_back_released()
            if error is None:
                self.books.finish()
                self._check_hits()
            else:
                self.books.abandon(error)

    def _backend(self, name: str) -> Backend:
        """One of each name: a board can be opened once."""
        if name not in self._backends:
            self._backends[name] = get_backend(name, **self.config.options_by_backend().get(name, {}))
            self._stack.callback(self._backends[name].close)
        return self._backends[name]

    def _policy_scoring(self) -> str:
        """PPO with PEFT scores its reference on the policy: it must match the sampler's formats."""
        if self.roles.reference_is_policy and self.roles.logprob_phase == ROLLOUT and self.config.reference == "match":
            log.info("the reference pass runs on the policy (PEFT): policy_scoring is 'rollout' so that KL starts at 0")
            return ROLLOUT
        return self.config.policy_scoring

    # ------------------------------------------------------------------ events

    def begin(self, state: TrainerState) -> None:
        """on_train_begin: the step is known (resumed or not), so the run folder can be opened."""
        self.engine.advance(state.global_step)
        self.books.step = state.global_step
        if state.is_world_process_zero:
            self.books.open_folder(state.global_step)
        if self.config.release_frozen:
            self._release_frozen()
        self._warn_of_precomputed_reference()

    def _release_frozen(self) -> None:
        release_frozen(self.engine, self.roles, self.trainer)
        self.books.write_config()
        released = {release.layer.role for release in self.engine.releases.done} & {"policy", "reference"}
        if self.config.kl_every and released:
            self._measures_kl = False
            log.info(
                "mx/kl_unquantised is not measured: layers of %s gave up their unquantised weights (release_frozen)",
                " and ".join(sorted(released)),
            )

    def _take_back_released(self) -> None:
        """Before the books close: log and config.json say how the weights came back."""
        releases = self.engine.releases
        if not releases.done and not releases.kept:
            log.warning("release_frozen=True had no effect: training ended before its on_train_begin, or without one")
        releases.restore()

    def step_ended(self, state: TrainerState) -> None:
        """on_step_end: book the step, tell the provider, and check that nothing was skipped."""
        self.books.close_step(state.global_step)
        self.engine.advance(state.global_step)
        # What one rank alone was told would let adaptive formats part from those of the others.
        metrics = self.ranks.agreed("the step's metrics", {**self.books.standard, **self.books.latest})
        self.engine.observe(state.global_step, metrics)
        if reference_syncs(self.trainer, state.global_step):
            self.engine.invalidate("reference")
        TRACKER.rest()
        if not self._first_step_checked:
            self._first_step_checked = True
            self._check_hits()

    def logged(self, state: TrainerState, logs: dict[str, Any]) -> None:
        """on_log: merge our numbers into the trainer's own record and write the run's files."""
        self.books.logged(state, logs)

    def _check_hits(self) -> None:
        """A layer was skipped if no rank executed it: an expert may lack tokens on one of them."""
        told = self.ranks.gather("counting hits", self.engine.unhit())
        try:
            self.engine.check_hits([place for place in told[0] if all(place in unhit for unhit in told)])
        except UnhitLayersError as error:
            if self.config.on_unhit == "fail":
                raise
            log.warning("%s", error)

    def _warn_of_precomputed_reference(self) -> None:
        """DPO may score its reference while it is constructed: no callback can give that pass formats."""
        if not getattr(self.trainer.args, "precompute_ref_log_probs", False) or self.config.reference != "match":
            return
        if any(self.engine.formats(layer, GRADIENT).forward.pair.quantised for layer in self.engine.layers):
            log.warning(
                "precompute_ref_log_probs=True computed the reference's log-probs unquantised, before MX began, while "
                "the policy's are quantised: rewards and KL do not start at 0. Set precompute_ref_log_probs=False, or "
                "leave the forward of 'gradient' unquantised"
            )

    # ------------------------------------------------------------------ checkpoints

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know: whether the gate was passed, what the provider saw last, and its own state."""
        provider = getattr(self.engine.provider, "state_dict", None)
        return {
            "gated": self.probe is not None and self.probe.gated,
            "standard": dict(self.books.standard),
            "provider": None if provider is None else dict(provider()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        if self.probe is not None:
            self.probe.gated = bool(state["gated"])
        self.books.standard = dict(state["standard"])
        if state["provider"] is not None:
            self.engine.provider.load_state_dict(state["provider"])  # type: ignore[attr-defined]
            self.engine.ask_again()

    # ------------------------------------------------------------------ mismatch

    def _generated(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """After a generation in this process."""
        self._measure(lambda probe: probe.sample(model, args, kwargs, output))

    def _rolled_out(self, prompts: list[list[int]], completions: list[list[int]]) -> None:
        """After a generation of vLLM."""
        self._measure(lambda probe: probe.sample_of(prompts, completions))

    def _measure(self, read: Callable[[MismatchProbe], Sample | None]) -> None:
        """After the first generation of a step: measure, before any update can happen."""
        probe = self.probe
        step = self.books.step
        if probe is None or step == self._measured_step:
            return
        self._measured_step = step
        every, kl_every = self.config.mismatch_every, self.config.kl_every
        due = not probe.gated or (every and step % every == 0)
        kl_due = (
            kl_every and self._measures_kl and (step % kl_every == 0 or step + 1 >= (self.trainer.state.max_steps or 0))
        )
        if not due and not kl_due:
            return
        try:
            sample = read(probe)
            if sample is None:
                self.books.warn_once(
                    "mismatch", "mismatch is not measured: this generation's output has a form that cannot be re-scored"
                )
                return
            if due:
                self.books.measured.update(probe.measure(sample))
            if kl_due:
                self.books.measured.update(probe.unquantised_kl(sample))
        except (MismatchError, RanksError):
            raise
        except Exception as error:  # a model whose forward takes other arguments must still train
            self.probe = None
            log.warning(
                "mismatch is not measured in this run: re-scoring failed with %s: %s", type(error).__name__, error
            )


def backend_name(config: MXConfig, trainer: Any) -> str:
    """``config.default_backend``; for ``auto`` that of the trainer's device."""
    if config.default_backend != "auto":
        return config.default_backend
    device = getattr(getattr(trainer, "accelerator", None), "device", None)
    return automatic(() if device is None else (device.type,))


def refuse_options_of_others(config: MXConfig, default: str) -> None:
    """Raises PolicyError for options of a backend that this run does not use."""
    used = {default, *config.backend_patterns().values()}
    for name in config.options_by_backend():
        if name not in used:
            raise PolicyError(f"backend_options names {name!r}, which executes no layer: {nearest(name, sorted(used))}")
