"""What the adapter takes for granted holds in every release that it says it was checked against."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from mx_openrlhf.actors import MODEL_ACTORS
from mx_openrlhf.expected import EXPECTED
from mx_openrlhf.ray_patches import MODULES
from mx_openrlhf.recipe import _REFUSED_ABOVE_ONE, _REFUSED_SWITCHES, _REFUSED_VALUES, correction_flags
from mx_openrlhf.trainer_patches import TRAINERS
from mx_openrlhf.versions import CHECKED, release
from mx_plugin.config import MXConfig
from tests.openrlhf.wheels import Source, wheel_of


@pytest.fixture(scope="module", params=CHECKED)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def source(version: str, repository: Path) -> Source:
    return Source(wheel_of(version, repository / "build" / "openrlhf"))


def test_classes_and_parameters_are_those_that_the_adapter_follows(source: Source) -> None:
    for module, classes in EXPECTED.items():
        for cls, methods in classes.items():
            found = source.methods(module, cls)
            for method, wanted in methods.items():
                assert found[method][: len(wanted)] == wanted, f"{module}.{cls}.{method}"


def test_a_sync_says_which_weight_is_its_last(source: Source) -> None:
    """Both ways of sending one; where vLLM quantises by itself, it waits for the last."""
    told = [
        ast.unparse(call)
        for call in ast.walk(source.tree("openrlhf.trainer.ray.ppo_actor"))
        if isinstance(call, ast.Call) and ast.unparse(call.func).startswith("engine.update_weight")
    ]
    assert len(told) == 2 and all("empty_cache=count == num_params" in text for text in told)


def test_every_class_that_is_replaced_is_checked_and_a_ray_actor(source: Source) -> None:
    for module, names in MODULES.items():
        assert set(names) <= set(EXPECTED[module])
        for name in names:
            decorators = [ast.unparse(node) for node in source.classes(module)[name].decorator_list]
            assert [text for text in decorators if text.startswith("ray.remote")], f"{module}.{name} is no Ray actor"


def test_only_the_four_model_actors_hold_models(source: Source) -> None:
    """A fifth one would run unquantised, and nobody would be told."""
    found = {
        name
        for module in MODULES
        for name, node in source.classes(module).items()
        if any(getattr(base, "id", "") == "BaseModelActor" for base in node.bases)
    }
    assert found == set(MODEL_ACTORS)


def test_the_worker_extension_is_still_the_one_that_ours_extends(source: Source) -> None:
    nodes = ast.walk(source.tree("openrlhf.trainer.ray.vllm_engine"))
    texts = {node.value for node in nodes if isinstance(node, ast.Constant)}
    assert "openrlhf.trainer.ray.vllm_worker_wrap.WorkerWrap" in texts


def test_flags_that_are_refused_or_added_exist(source: Source, version: str) -> None:
    flags = set(source.flags("openrlhf.cli.train_ppo_ray"))
    every = flags | {flag for recipe in TRAINERS for flag in source.flags(f"openrlhf.cli.{recipe}")}
    refused = [flag for flag, *_ in (*_REFUSED_VALUES, *_REFUSED_ABOVE_ONE, *_REFUSED_SWITCHES)]
    assert set(refused) <= every
    for kind in ("token", "sequence"):
        added = correction_flags(MXConfig(policy="C", rollout_correction=kind), (), release(version))
        assert {word for word in added if word.startswith("--")} <= flags
