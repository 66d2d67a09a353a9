"""What is asked of the planner: a stage, its models and its sizes. Imports neither torch nor a framework."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mx_plugin.errors import nearest

from ..errors import StageError

STAGES = ("ppo", "grpo", "sft", "dpo", "reward")
DTYPES = {"float32": 4, "bfloat16": 2}
"""Model dtypes and their bytes. PEFT keeps adapters in float32 in either case."""

BACKENDS = ("cpu", "reference")
NO_POLICY = "none"


@dataclass(frozen=True)
class Request:
    """One training run, in its sizes. Lengths are in tokens, batches in sequences on one device.

    ``batch``: sequences of one forward and backward (``per_device_train_batch_size``; of DPO and reward, pairs).
    ``rollout_batch``: PPO's ``local_rollout_forward_batch_size``. ``padded``: batches hold padding, so that attention
    gets a mask; without, it needs none and grouped keys are not repeated. ``reward_model``: None takes the policy's
    shape, ``rule`` is a reward without a model. ``devices``: roles are placed over so many. ``shared_trunk``: the
    critic is a head on the policy's own layers.
    """

    model: str
    stage: str = "ppo"
    policy: str = NO_POLICY
    batch: int = 4
    accumulation: int = 1
    prompt_length: int = 64
    response_length: int = 64
    dtype: str = "float32"
    rollout_batch: int = 64
    mini_batches: int = 1
    generations: int = 4
    beta: float = 0.0
    gradient_checkpointing: bool = False
    lora_r: int = 0
    release_frozen: bool = False
    shared_trunk: bool = False
    devices: int = 1
    padded: bool = True
    backend: str = "cpu"
    reward_model: str | None = None
    value_model: str | None = None
    mismatch_samples: int = 4

    def __post_init__(self) -> None:
        for name, valid in (("stage", STAGES), ("dtype", tuple(DTYPES)), ("backend", BACKENDS)):
            value = getattr(self, name)
            if value not in valid:
                raise StageError(f"--{name} {value}: {nearest(value, valid)}")
        whole = ("batch", "accumulation", "prompt_length", "response_length", "rollout_batch", "mini_batches",
                 "generations", "devices", "mismatch_samples")  # fmt: skip
        for name in whole:
            if getattr(self, name) < 1:
                raise StageError(f"--{name} {getattr(self, name)}: must be at least 1")
        if self.lora_r < 0:
            raise StageError(f"--lora_r {self.lora_r}: must be 0 (no adapters) or more")
        if self.accumulation % self.mini_batches and self.batch * self.accumulation % self.mini_batches:
            raise StageError(
                f"--mini_batches {self.mini_batches} does not divide a step's sequences, {self.step_batch}"
            )
        if self.release_frozen and self.policy == NO_POLICY:
            raise StageError("--release_frozen keeps packed copies: it needs a precision policy, see --policy")

    @property
    def element(self) -> int:
        """Bytes of one number of the model."""
        return DTYPES[self.dtype]

    @property
    def length(self) -> int:
        """Tokens of prompt and response together."""
        return self.prompt_length + self.response_length

    @property
    def step_batch(self) -> int:
        """Sequences of one optimiser step (PPO: of one rollout)."""
        return self.batch * self.accumulation

    def options(self) -> dict[str, Any]:
        """As plain data."""
        return dict(vars(self))


GIB = 2**30
_UNITS = {"": 1, "B": 1, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "TB": 1000**4,
          "KIB": 2**10, "MIB": 2**20, "GIB": GIB, "TIB": 2**40}  # fmt: skip


def read_bytes(text: str) -> int:
    """``16GiB``, ``800MB``, ``1.5 GB`` -> bytes.

    Raises:
        StageError: not a size, or not above zero.
    """
    number = text.strip().rstrip("KMGTiBkmgtb ")
    unit = text.strip()[len(number) :].strip().upper()
    try:
        found = float(number) * _UNITS[unit]
    except (ValueError, KeyError):
        raise StageError(f"--limit {text}: a size is a number with a unit, such as 16GiB or 800MB") from None
    if not found > 0 or found == float("inf"):
        raise StageError(f"--limit {text}: must be above 0 and finite")
    return int(found)
