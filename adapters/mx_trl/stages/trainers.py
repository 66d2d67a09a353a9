"""TRL's trainers by name, or one clear message when the installed TRL has no such trainer."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from ..errors import StageError


def load_trainer(name: str) -> tuple[type[Any], type[Any]]:
    """(config class, trainer class) of the installed trl: ``SFT``, ``Reward`` or ``DPO``.

    Raises:
        StageError: it has none of that name.
    """
    try:
        module = __import__("trl", fromlist=[f"{name}Config", f"{name}Trainer"])
        return getattr(module, f"{name}Config"), getattr(module, f"{name}Trainer")
    except (ImportError, AttributeError) as error:
        raise StageError(
            f"trl {version('trl')} has no {name}Trainer: pip install 'mx-plugin[trl]' (trl 1.16 and later), or "
            "'mx-plugin[ppo]' (1.12), have it"
        ) from error
