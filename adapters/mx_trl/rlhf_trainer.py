"""``RLHFTrainer``: the whole loop in five lines, over TRL's PPO (where it has one) or GRPO."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mx_plugin import AdaptiveController
from mx_plugin.config import MXConfig

from .errors import StageError
from .experiments.recipe import Recipe, embedded_words, installed_stage
from .stages.summary import StageSummary

Controller = AdaptiveController | MXConfig | str | Path
Config = Mapping[str, Any] | str | Path


class RLHFTrainer:
    """Reinforcement learning of a language model under MX formats: a thin face over the PPO and GRPO stages.

    Args:
        model_name: folder or hub id of the policy; None is the embedded small model, with its prompts and reward.
        dataset: prompts: hub id, folder, ``.jsonl`` or ``.jsonl.gz``.
        controller: chooses the formats: an :class:`~mx_plugin.AdaptiveController`, the name or YAML file of a policy,
            an :class:`~mx_plugin.config.MXConfig`, or None for policy C.
        config: options of the stage by name (``learning_rate``, ``reward``, ``response_length``, ``prompt_from``, ...),
            or a YAML file of them.
        stage: ``ppo`` or ``grpo``; default: PPO where the installed TRL has it (1.12), else GRPO.

    Raises:
        StageError: PPO is asked for and the installed TRL has none; a config that cannot be read; a controller whose
            backend a name cannot tell.
    """

    def __init__(
        self,
        model_name: str | None = None,
        dataset: str | None = None,
        controller: Controller | None = None,
        config: Config | None = None,
        *,
        stage: str | None = None,
    ) -> None:
        os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
        self.stage = installed_stage(stage)
        self.controller = controller
        if isinstance(controller, AdaptiveController) and not isinstance(controller.chosen_backend, str):
            raise StageError(
                "RLHFTrainer opens the backend itself: give AdaptiveController(backend=...) a name, or say it in config"
            )
        given = {"model_name_or_path": model_name, "dataset_name": dataset}
        self.options: dict[str, Any] = {
            **(_read(embedded_words(self.stage)[1]) if model_name is None else {}),
            **(_read(config) if isinstance(config, str | Path) else dict(config or {})),
            **{name: value for name, value in given.items() if value is not None},
        }

    def train(
        self, num_steps: int | None = None, log_energy: bool = True, output_dir: str | Path = "runs/rlhf"
    ) -> StageSummary:
        """Train; the run's files go to ``<output_dir>/policy_<name>/``, the final model to ``<output_dir>/model``.

        Args:
            num_steps: training steps; None: the config's ``max_steps``.
            log_energy: with the meters of the config (default ``modelled``, an estimate); False meters nothing, and
                the joules of energy.csv stay empty.

        Raises:
            StageError: model, reward, prompts and settings that do not fit; see the message.
        """
        from .experiments.options import build, parse
        from .experiments.weights import save_model

        output = Path(output_dir)
        output.mkdir(parents=True, exist_ok=True)
        options = {**self.options, **self._formats(output), **({} if log_energy else {"meters": []})}
        recipe_file = output / "recipe.yaml"
        recipe_file.write_text(yaml.safe_dump(options, sort_keys=False), encoding="utf-8")
        recipe = Recipe(self.stage, ("--config", str(recipe_file)), str(output / "embedded"), num_steps)
        built = build(recipe, parse(recipe, output / "trainer", hold_out=0), output)
        summary = built.train()
        save_model(built.policy, built.trainer.processing_class, output / "model")
        return summary

    def _formats(self, output: Path) -> dict[str, Any]:
        """The controller's choice as options. Its policy, which may come from a matrix, is written beside the run."""
        controller = self.controller
        if controller is None:
            return {}
        if isinstance(controller, MXConfig):
            return {name: value for name, value in controller.to_dict().items() if value is not None}
        if not isinstance(controller, AdaptiveController):
            return {"policy": str(controller)}
        file = output / f"{controller.policy.name}.yaml"
        controller.policy.to_yaml(file)
        chosen = {"policy": str(file)}
        if controller.chosen_backend != "cpu":
            chosen["backend"] = str(controller.chosen_backend)
        if controller.fpga_device is not None:
            chosen["backend_options"] = [f"fpga.url={controller.fpga_device}"]  # type: ignore[assignment]
        return chosen


def _read(path: str | Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise StageError(f"cannot read the config {path}: {error}") from error
    if not isinstance(data, dict):
        raise StageError(f"{path}: expected a mapping of options, found {type(data).__name__}")
    return data
