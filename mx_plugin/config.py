"""``MXConfig``: everything a user may choose, as one dataclass.

It serves unchanged as keyword arguments of a callback, from a YAML file, and beside a framework's
own arguments in a dataclass-driven command line (so field names avoid those of training arguments,
and types are ones that such parsers understand).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from .errors import PolicyError, nearest

_CHOICES = {
    "policy_scoring": ("gradient", "rollout"),
    "reference": ("match", "own"),
    "rollout_correction": ("auto", "off", "token", "sequence"),
    "on_unhit": ("fail", "warn"),
    "on_mismatch": ("warn", "fail"),
    "gradient_product_dtype": ("auto", "bfloat16", "float32"),
    "vllm_formats": ("auto", "rounded"),
}


@dataclass
class MXConfig:
    """How a run is quantised, executed and metered.

    Raises:
        PolicyError: a value outside its choices or range; the message names the field and remedy.
    """

    policy: str = field(
        default="C", metadata={"help": "Precision policy: A, B, C, C8, D, a YAML file or a provider's name."}
    )
    sensitivity_matrix: str | None = field(
        default=None, metadata={"help": "CSV with the cost of each format per layer and phase (policy D)."}
    )
    max_cost: float | None = field(
        default=None, metadata={"help": "Policy D takes the narrowest format whose cost is at most this."}
    )
    policy_options: list[str] | None = field(
        default=None,
        metadata={"help": "Options of a plugin's provider: NAME.OPTION=VALUE ... (in YAML a mapping)."},
    )
    backend: str = field(
        default="auto", metadata={"help": "Backend that executes MX layers; auto: the one for the trainer's device."}
    )
    backends: list[str] | None = field(
        default=None,
        metadata={
            "help": "Other backends for some layers: PATTERN=NAME or PATTERN@PHASE=NAME ... (in YAML a mapping)."
        },
    )
    backend_options: list[str] | None = field(
        default=None,
        metadata={
            "help": "Options of backends: NAME.OPTION=VALUE ..., e.g. fpga.url=/dev/ttyUSB0 (in YAML a mapping)."
        },
    )
    fpga_layers: list[str] | None = field(
        default=None,
        metadata={"help": "Layers whose rollouts an FPGA multiplies: short for backends PATTERN@rollout=fpga."},
    )
    meters: list[str] = field(
        default_factory=lambda: ["modelled"], metadata={"help": "Energy meters: modelled, zeus, a plugin's."}
    )
    meter_options: list[str] | None = field(
        default=None, metadata={"help": "Options of meters: NAME.OPTION=VALUE ... (in YAML a mapping)."}
    )
    energy_target: str = field(
        default="as-executed", metadata={"help": "What modelled energy describes: as-executed or projected:<device>."}
    )
    energy_table: str | None = field(
        default=None, metadata={"help": "YAML table of energies that replaces the built-in one."}
    )
    policy_scoring: str = field(
        default="gradient", metadata={"help": "Formats of policy passes without gradients outside generation."}
    )
    reference: str = field(
        default="match",
        metadata={"help": "Reference formats: match (those of the policy's log-probs) or own (phase reward)."},
    )
    rollout_correction: str = field(
        default="auto",
        metadata={
            "help": "GRPO and RLOO: weigh samples by gradient over rollout probabilities, by token or sequence; off; "
            "auto: token where the policy's rollout and gradient formats differ."
        },
    )
    rollout_correction_cap: float = field(
        default=3.0, metadata={"help": "Importance weights of the rollout correction are truncated here."}
    )
    release_frozen: bool = field(
        default=False,
        metadata={"help": "Frozen layers of one format (reference, reward, bases of LoRA) keep only packed weights."},
    )
    gradient_product_dtype: str = field(
        default="auto",
        metadata={
            "help": "What a float32 model's MX training products multiply: bfloat16, float32, or auto (bfloat16 where "
            "results stay float32)."
        },
    )
    vllm_formats: str = field(
        default="auto",
        metadata={
            "help": "Rollouts in vLLM: auto (by its own MX kernels where its device has those of the policy's format) "
            "or rounded (weights on the format's grid, multiplied unquantised)."
        },
    )
    on_unhit: str = field(
        default="fail", metadata={"help": "When an adopted layer never executed in a phase that ran: fail or warn."}
    )
    on_mismatch: str = field(
        default="warn", metadata={"help": "When the step-0 gate is exceeded: warn or fail (before any update)."}
    )
    gate_outside_clip: float = field(
        default=0.05, metadata={"help": "Step-0 gate: largest share of tokens outside the clip range."}
    )
    gate_clip: float | None = field(
        default=None, metadata={"help": "Clip range of the gate; default: the trainer's own, else 0.2."}
    )
    mismatch_every: int = field(
        default=10, metadata={"help": "Measure rollout-against-gradient mismatch every N steps (0: only at step 0)."}
    )
    mismatch_samples: int = field(default=4, metadata={"help": "Sequences used for each mismatch measurement."})
    kl_every: int = field(
        default=10, metadata={"help": "Measure KL with policy and reference both unquantised every N steps (0: never)."}
    )

    def __post_init__(self) -> None:
        if isinstance(self.backends, Mapping):
            self.backends = [f"{pattern}={name}" for pattern, name in self.backends.items()]
        for name in ("backend_options", "policy_options", "meter_options"):
            options = getattr(self, name)
            if isinstance(options, Mapping):
                setattr(self, name, _flat(name, options))
        if isinstance(self.fpga_layers, str):
            self.fpga_layers = [self.fpga_layers]
        for name, valid in _CHOICES.items():
            value = getattr(self, name)
            if value not in valid:
                raise PolicyError(f"{name}={value!r} is not a choice: {nearest(str(value), valid)}")
        for name in ("mismatch_every", "kl_every"):
            if getattr(self, name) < 0:
                raise PolicyError(f"{name}={getattr(self, name)} must be 0 (never) or more")
        if self.mismatch_samples < 1:
            raise PolicyError(f"mismatch_samples={self.mismatch_samples} must be at least 1")
        if not self.rollout_correction_cap > 0.0:
            raise PolicyError(f"rollout_correction_cap={self.rollout_correction_cap} must be above 0")
        if not 0.0 < self.gate_outside_clip <= 1.0:
            raise PolicyError(f"gate_outside_clip={self.gate_outside_clip} must lie in (0, 1]")
        self.backend_patterns()
        self.options_by_backend()
        self.options_by_meter()
        self.options_by_provider()

    def backend_patterns(self) -> dict[str, str]:
        """``{layer pattern, perhaps with @phase: backend name}`` from ``backends``, then from ``fpga_layers``.

        Raises:
            PolicyError: an entry that is not PATTERN=NAME.
        """
        patterns: dict[str, str] = {}
        for entry in self.backends or []:
            pattern, separator, name = str(entry).partition("=")
            if not separator or not pattern.strip() or not name.strip():
                raise PolicyError(f"backends entry {entry!r} is not PATTERN=NAME, e.g. 'model.layers.0.*=fpga'")
            patterns[pattern.strip()] = name.strip()
        return patterns | {f"{pattern}@rollout": "fpga" for pattern in self.fpga_layers or []}

    @property
    def default_backend(self) -> str:
        """``backend``; but ``fpga`` beside ``fpga_layers`` means those layers alone: the others go by ``auto``."""
        return "auto" if self.backend == "fpga" and self.fpga_layers else self.backend

    def options_by_backend(self) -> dict[str, dict[str, Any]]:
        """``{backend name: {option: value}}`` from ``backend_options``; numbers, true and false are read as such.

        Raises:
            PolicyError: an entry that is not NAME.OPTION=VALUE.
        """
        return _by_name("backend_options", self.backend_options, "fpga.url=/dev/ttyUSB0")

    def options_by_meter(self) -> dict[str, dict[str, Any]]:
        """As :meth:`options_by_backend`, from ``meter_options``.

        Raises:
            PolicyError: an entry that is not NAME.OPTION=VALUE, or whose meter is not in ``meters``.
        """
        options = _by_name(
            "meter_options", self.meter_options, "smart-plug.url=http://192.0.2.7/rpc/Switch.GetStatus?id=0"
        )
        for name in options:
            if name not in self.meters:
                raise PolicyError(f"meter_options names {name!r}, which is not in meters: {nearest(name, self.meters)}")
        return options

    def options_by_provider(self) -> dict[str, dict[str, Any]]:
        """As :meth:`options_by_backend`, from ``policy_options``; those of ``policy`` are used.

        Raises:
            PolicyError: an entry that is not NAME.OPTION=VALUE.
        """
        return _by_name("policy_options", self.policy_options, "kl-budget.max_kl=0.5")

    @classmethod
    def from_yaml(cls, path: str | Path) -> MXConfig:
        """Read a YAML mapping of field names to values.

        Raises:
            PolicyError: unreadable file, YAML syntax, or a name that is not a field.
        """
        try:
            data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise PolicyError(f"cannot read MX configuration {path}: {error}") from error
        if not isinstance(data, dict):
            raise PolicyError(f"{path}: expected a mapping of MXConfig fields, found {type(data).__name__}")
        return cls().merged(data, where=str(path))

    def merged(self, overrides: Mapping[str, Any], where: str = "MXConfig") -> MXConfig:
        """Return a copy with ``overrides`` applied.

        Raises:
            PolicyError: a name that is not a field; the message names the nearest one.
        """
        known = [f.name for f in fields(self)]
        for name in overrides:
            if name not in known:
                raise PolicyError(f"{where}: unknown option {name!r}: {nearest(str(name), known)}")
        return replace(self, **overrides)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for config.json."""
        return asdict(self)


def _by_name(field_name: str, entries: list[str] | None, example: str) -> dict[str, dict[str, Any]]:
    """``{name: {option: value}}`` of entries NAME.OPTION=VALUE."""
    options: dict[str, dict[str, Any]] = {}
    for entry in entries or []:
        place, separator, value = str(entry).partition("=")
        name, dot, option = place.strip().partition(".")
        if not separator or not dot or not name or not option:
            raise PolicyError(f"{field_name} entry {entry!r} is not NAME.OPTION=VALUE, e.g. {example!r}")
        options.setdefault(name, {})[option] = typed_option(value.strip())
    return options


def _flat(field_name: str, options: Mapping[str, Any]) -> list[str]:
    """``{"fpga": {"mode": "verify"}}`` as the command line writes it."""
    for name, values in options.items():
        if not isinstance(values, Mapping):
            raise PolicyError(f"{field_name} of {name!r} must be a mapping of options to values, not {values!r}")
    return [f"{name}.{option}={value}" for name, values in options.items() for option, value in values.items()]


def typed_option(text: str) -> Any:
    """A number or a truth value where the text is one."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
