"""Writes docs/configuration.md from the dataclasses that MXCallback and the stages are configured by.

    .venv/bin/python docs/tables/configuration.py

Run it with the line of TRL that has all stages (1.12): defaults of its own fields are read from it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
sys.path.insert(0, str(Path(__file__).parent))

from ranges import RANGES, TRAINER, one_of

from mx_plugin import config as mx
from mx_trl.stages import arguments

PAGE = Path(__file__).parents[1] / "configuration.md"

HEAD = """# Configuration

<!-- Written by docs/tables/configuration.py from the dataclasses: change those, then run it. -->

Every knob is a field of a dataclass. A stage takes them all from one YAML file (`--config FILE`) and from flags of the
same names, which win: `examples/ppo_mx.py --config examples/configs/ppo_embedded.yaml --policy C8`. In a script of your
own, `MXCallback(policy="C8", ...)` takes those of MXConfig, and `MXConfig.from_yaml(FILE)` reads them from a file. On
the command line the entries of a list stand one after the other. MXConfig refuses a word that is no choice and a
number outside its range, and says what it takes.

What the files of a precision policy hold is in [policies](policies.md); options of a backend (`backend_options`) are in
its own page, the board's in [fpga](fpga.md); commands (`mx-plugin ... --help`) have their own options.
"""

SECTIONS: tuple[tuple[type[Any], str, str], ...] = (
    (mx.MXConfig, "MX: formats, execution, measurement", "Of MXCallback, in every stage."),
    (arguments.CommonArguments, "Every stage", "`examples/{sft,reward,ppo,dpo,grpo}_mx.py`, beside the trainer's own."),
    (arguments.StageArguments, "PPO and GRPO: prompts and reward", ""),
    (arguments.PPOScriptArguments, "PPO alone", ""),
    (arguments.GRPOScriptArguments, "GRPO alone", ""),
    (arguments.ExampleArguments, "SFT, reward model and DPO: examples", ""),
    (arguments.SFTScriptArguments, "SFT alone", ""),
    (arguments.RewardScriptArguments, "The reward model alone", ""),
    (arguments.DPOScriptArguments, "DPO alone", ""),
)

ENVIRONMENT = """## Environment variables

| variable | default | meaning |
|---|---|---|
| `MX_PLUGIN_LOAD` | all | load these plugins only (names of entry points, separated by commas) |
| `MX_PLUGIN_DISABLE` | none | never load these |
| `MX_CPU_ISA` | the best that the processor has | level of the native kernels: `amx`, `avx512`, `avx2`, `scalar` |
| `MX_CPU_LIBRARY` | the installed one | the kernels' library to load |
"""


def page() -> str:
    """The whole text."""
    parts = [HEAD]
    for cls, title, about in SECTIONS:
        own = own_fields(cls)
        if own:
            parts.append("\n".join([f"## {title}", "", *([about, ""] if about else []), *table(cls, own)]) + "\n")
    parts += [trainer_section(), ENVIRONMENT]
    return "\n".join(parts)


def own_fields(cls: type[Any]) -> list[Field[Any]]:
    """Fields that the class adds to those of its bases."""
    inherited = {known.name for base in cls.__mro__[1:] if base is not object for known in fields(base)}
    return [known for known in fields(cls) if known.name not in inherited]


def table(cls: type[Any], known: Iterable[Field[Any]]) -> list[str]:
    """Rows of one dataclass."""
    rows = ["| option | default | range | meaning |", "|---|---|---|---|"]
    for one in known:
        rows.append(_row(one.name, default_of(one), range_of(cls, one), one.metadata["help"]))
    return rows


def range_of(cls: type[Any], one: Field[Any]) -> str:
    """In words.

    Raises:
        KeyError: ranges.py has no entry for it.
    """
    if cls is mx.MXConfig and one.name in mx._CHOICES:
        return one_of(*mx._CHOICES[one.name]).words
    if one.type in ("bool", bool):  # the name, until a parser of transformers has put the class in its place
        return "true, false"
    qualified = f"{cls.__name__}.{one.name}"
    return RANGES[qualified if qualified in RANGES else one.name].words


def default_of(one: Field[Any]) -> str:
    """As a YAML file has it; ``none`` for None, ``(required)`` where there is none."""
    if one.default is not MISSING:
        return _plain(one.default)
    return _plain(one.default_factory()) if one.default_factory is not MISSING else "(required)"


def _plain(value: Any) -> str:
    value = getattr(value, "value", value)  # of an enumeration
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"`{' '.join(map(str, value))}`" if value else "none"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _row(*cells: str) -> str:
    name, *others = (cell.replace("|", "\\|") for cell in cells)
    return f"| `{name}` | {' | '.join(others)} |"


# ---------------------------------------------------------------------------- the trainers' own


def trainer_classes() -> dict[str, type[Any]]:
    """TRL's own dataclasses by stage, and ModelConfig, which all share."""
    import trl
    from trl.experimental.ppo import PPOConfig

    return {
        "every stage": trl.ModelConfig,
        "SFT": trl.SFTConfig,
        "reward": trl.RewardConfig,
        "PPO": PPOConfig,
        "DPO": trl.DPOConfig,
        "GRPO": trl.GRPOConfig,
    }


def trainer_section() -> str:
    """Those of TRL's fields that matter here; its documentation has the others."""
    rows = [
        "## The trainers' own",
        "",
        "Fields of TRL's and transformers' dataclasses that our recipes set, with TRL 1.12's defaults; others work.",
        "",
        "| option | stages | default | range | meaning |",
        "|---|---|---|---|---|",
    ]
    classes = trainer_classes()
    for name, (values, meaning) in TRAINER.items():
        found = {stage: _field(cls, name) for stage, cls in classes.items()}
        defaults = {stage: default_of(one) for stage, one in found.items() if one is not None}
        rows.append(_row(name, _stages(defaults), _defaults(defaults), values.words, meaning))
    return "\n".join(rows) + "\n"


def _field(cls: type[Any], name: str) -> Field[Any] | None:
    return next((one for one in fields(cls) if one.name == name), None)


def _stages(defaults: dict[str, str]) -> str:
    """Raises ValueError for an option that no stage has."""
    if not defaults:
        raise ValueError("ranges.py: TRAINER names an option that no stage has")
    return "all" if len(defaults) >= 5 or "every stage" in defaults else ", ".join(defaults)


def _defaults(defaults: dict[str, str]) -> str:
    if len(set(defaults.values())) == 1:
        return next(iter(defaults.values()))
    return ", ".join(f"{stage} {default}" for stage, default in defaults.items())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
