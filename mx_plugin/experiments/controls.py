"""Controls: runs that tell what a difference is worth. Each says which policy it is a control of.

aa              the baseline again, on other draws of the sampler: the noise floor
random-D        D's formats dealt to layers at random, at equal packed bytes, dealt anew for every seed
inverted-D      the narrow formats to the layers that D protects, at equal packed bytes
noise-D         (bf16+noise) unquantised, with Gaussian noise of the quantisation error's RMS on D's operands
matched-D       training's forward products in the formats of D's rollouts
correction_off-D, correction_on-D  D without the rollout correction, where the recipe has it, or with it
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import nearest
from ..precision import PrecisionPolicy, SensitivityMatrix
from .control_policies import Made, inverted_policy, matched_policy, random_policy
from .errors import ExperimentError
from .plan import PlannedRun
from .policies import Layer, checked

AA, RANDOM, INVERTED, NOISE, MATCHED = "aa", "random", "inverted", "noise", "matched"
CORRECTION_OFF, CORRECTION_ON = "correction_off", "correction_on"
KINDS = (AA, RANDOM, INVERTED, NOISE, MATCHED, CORRECTION_OFF, CORRECTION_ON)
_ALSO = {"bf16+noise": NOISE, "correction-off": CORRECTION_OFF}

AA_SAMPLING = 1_000_003
"""Added to a seed: the draws of ``aa``."""


@dataclass(frozen=True)
class Control:
    """``kind``, of the policy named ``of``."""

    kind: str
    of: str

    @property
    def name(self) -> str:
        return self.kind if self.kind == AA else f"{self.kind}-{self.of}"


def parse_controls(words: Sequence[str], policies: Sequence[str], baseline: str) -> list[Control]:
    """Controls by their words: ``random-D``, or ``random`` for D, or else for the last policy but the baseline.

    Raises:
        ExperimentError: an unknown control; a control of a policy that the experiment does not hold.
    """
    return [_parse(word, policies, baseline) for word in words]


def _parse(word: str, policies: Sequence[str], baseline: str) -> Control:
    shown = [*KINDS, *_ALSO]
    kind = max((k for k in shown if word == k or word.startswith(f"{k}-")), key=len, default=None)
    if kind is None:
        raise ExperimentError(f"unknown control {word!r}: {nearest(word, ['bf16+noise', *KINDS])}")
    of = word[len(kind) + 1 :]
    kind = _ALSO.get(kind, kind)
    if kind == AA:
        of = baseline
    others = [name for name in policies if name != baseline]
    if not of:
        if not others:
            raise ExperimentError(
                f"control {word}: of which policy? Write {word}-NAME; the plan holds none but the baseline"
            )
        of = "D" if "D" in others else others[-1]
    if of not in policies:
        raise ExperimentError(f"control {word}: no policy {of!r} in this experiment: {nearest(of, policies)}")
    return Control(kind, of)


@dataclass
class ControlPlanner:
    """Makes the runs of controls, and the policies that they need.

    ``policies``: of the experiment, by name. ``options``: by kind, the fields of MXConfig that the adapter sets
    (which backend adds noise, which field switches a correction off), given the seed.
    """

    policies: Mapping[str, PrecisionPolicy]
    layers: Sequence[Layer]
    options: Mapping[str, Callable[[int], Mapping[str, Any]]]
    matrix: SensitivityMatrix | None = None
    made: dict[str, PrecisionPolicy] = field(default_factory=dict)

    def run(self, control: Control, seed: int) -> PlannedRun:
        """The run of a control under a seed; its policy is in ``made``, by the name of its file.

        Raises:
            ExperimentError: the control does not fit the policy.
            PolicyError: what was made does not fit the layers.
        """
        base = self.policies[control.of]
        options = self.options[control.kind](seed) if control.kind in self.options else {}
        if control.kind in (AA, NOISE, CORRECTION_OFF, CORRECTION_ON):
            return PlannedRun(
                control.name, control.of, seed, _sha256(base), control.kind,
                seed + AA_SAMPLING if control.kind == AA else None, options, {"of": control.of},
            )  # fmt: skip
        made = self._made(control, base, seed)
        file = f"{control.name}.seed_{seed}" if control.kind == RANDOM else control.name
        policy = checked(made.policy, [layer.info for layer in self.layers])
        self.made[file] = policy
        return PlannedRun(control.name, file, seed, _sha256(policy), control.kind, None, options, made.about)

    def _made(self, control: Control, base: PrecisionPolicy, seed: int) -> Made:
        if control.kind == RANDOM:
            return random_policy(base, self.layers, control.name, seed)
        if control.kind == INVERTED:
            return inverted_policy(base, self.layers, control.name, self.matrix)
        return matched_policy(base, self.layers, control.name)


def _sha256(policy: PrecisionPolicy) -> str:
    return hashlib.sha256(policy.to_yaml().encode()).hexdigest()
