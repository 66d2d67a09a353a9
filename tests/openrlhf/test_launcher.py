"""The launcher's command line, the version guard, refusals, and that the recipe gets its own words unchanged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mx_openrlhf.arguments import parse
from mx_openrlhf.errors import LaunchError
from mx_openrlhf.launcher import run_spec
from mx_openrlhf.recipe import correction_flags, flag_value, refuse
from mx_openrlhf.versions import CHECKED, check_version, release
from mx_plugin.config import MXConfig
from mx_plugin.errors import PolicyError

PPO = "openrlhf.cli.train_ppo_ray"


def test_our_flags_end_where_the_recipe_begins() -> None:
    words = ["--mx.policy", "C8", "--mx.output_dir=out", "--mx.max_cost", "0.5", PPO]
    recipe = ["--actor.model_name_or_path", "--odd", "a b", "--reward.remote_url", "r.py", "--data.prompt_split=mx"]
    launch = parse([*words, *recipe])
    assert launch.recipe == tuple(recipe)
    assert (launch.config.policy, launch.config.max_cost, launch.output_dir) == ("C8", 0.5, "out")
    assert launch.name == "train_ppo_ray"


def test_lists_are_repeated_and_a_file_is_overridden(tmp_path: Path) -> None:
    file = tmp_path / "mx.yaml"
    file.write_text("policy: B\non_unhit: warn\n")
    words = ["--mx.config", str(file), "--mx.policy", "A", "--mx.backends", "a=cpu", "--mx.backends", "b=reference"]
    config = parse([*words, PPO]).config
    assert (config.policy, config.on_unhit, config.backends) == ("A", "warn", ["a=cpu", "b=reference"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "no recipe was named"),
        (["--mx.policy", "C"], "no recipe was named"),
        (["openrlhf.cli.train_pro"], "did you mean 'openrlhf.cli.train_ppo_ray'|Valid"),
        ([PPO, "--mx.policy", "C"], "put it before the module"),
        (["--mx.policy", PPO], "no recipe was named"),
        (["--mx.policy", "--actor.lr", PPO], "no value"),
        (["--actor.lr", "1", PPO], "stands before the recipe's module"),
        (["--mx.max_cost", "much", PPO], "not float"),
        (["--mx.policy", "A", "--mx.policy", "C", PPO], "given 2 times"),
        (["--mx.release_frozen", "true", PPO], "no effect under OpenRLHF"),
        (["--mx.kl_every", "3", PPO], "no effect under OpenRLHF"),
        (["--mx.meters", "zeus", PPO], "several actors share a device"),
    ],
)
def test_what_cannot_be_honoured_is_refused(words: list[str], says: str) -> None:
    with pytest.raises(LaunchError, match=says):
        parse(words)


def test_an_unknown_option_names_its_neighbour() -> None:
    with pytest.raises(PolicyError, match="did you mean 'policy'"):
        parse(["--mx.polcy", "C", PPO])


@pytest.mark.parametrize("version", [*CHECKED, "0.11.7", "0.11.3.post1", "0.11.0rc1"])
def test_versions_of_the_line_are_taken(version: str) -> None:
    assert check_version(version)[:2] == (0, 11)


@pytest.mark.parametrize("version", ["0.10.2", "0.12.0", "1.0", "0.1.1", ""])
def test_other_versions_are_refused_with_the_list(version: str) -> None:
    with pytest.raises(LaunchError, match=r"0\.11\.0, 0\.11\.1, 0\.11\.2"):
        check_version(version)


@pytest.mark.parametrize(
    "recipe",
    [
        ["--ds.zero_stage", "3"],
        ["--ds.zero_stage=3"],
        ["--ds.tensor_parallel_size", "2"],
        ["--ds.load_in_4bit"],
        ["--train.async_enable", "--ds.zero_stage", "2"],
        ["--actor.gradient_checkpointing_reentrant"],
    ],
)
def test_recipes_that_would_bypass_layers_are_refused(recipe: list[str]) -> None:
    with pytest.raises(LaunchError, match=recipe[0].partition("=")[0]):
        refuse(recipe)


def test_other_recipes_are_not_refused() -> None:
    refuse(["--ds.zero_stage", "2", "--ds.tensor_parallel_size", "1", "--ds.packing_samples"])


def test_the_last_value_of_a_flag_counts() -> None:
    recipe = ["--a", "1", "--b", "--a=2", "--c"]
    assert [flag_value(recipe, flag) for flag in ("--a", "--b", "--c", "--d")] == ["2", "", "", None]


def test_importance_correction_is_on_unless_nothing_is_quantised_or_the_recipe_chose() -> None:
    newest = release(CHECKED[-1])
    added = correction_flags(MXConfig(policy="C"), (), newest)
    assert flag_value(added, "--algo.advantage.is_correction_level") == "token"
    assert added[-3:] == ("--algo.advantage.is_correction_threshold", "0.5", "3.0")
    assert correction_flags(MXConfig(policy="A"), (), newest) == ()
    assert correction_flags(MXConfig(policy="C", rollout_correction="off"), (), newest) == ()
    own = ("--algo.advantage.is_correction_level", "seq")
    assert correction_flags(MXConfig(policy="C"), own, newest) == ()
    assert correction_flags(MXConfig(policy="A", rollout_correction="token"), (), newest) != ()


def test_importance_correction_had_other_names() -> None:
    added = correction_flags(MXConfig(policy="C"), (), (0, 11, 1))
    assert "--algo.advantage.is_correction_enable" in added and "tis" in added


def test_files_are_named_absolutely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text("version: 1\nname: mine\ndefaults: {rollout: MXFP8}\n")
    monkeypatch.chdir(tmp_path)
    spec = run_spec(parse(["--mx.policy", "mine.yaml", "--mx.output_dir", "out", PPO, "--x"]), ("--y",))
    assert spec.config.policy == str(tmp_path / "mine.yaml")
    assert spec.output_dir == str(tmp_path / "out")
    assert (spec.flags, spec.added_flags) == (("--x",), ("--y",))


FAKE_RECIPE = """
import json, sys
from openrlhf.trainer.sft_trainer import SFTTrainer
json.dump([__name__, sys.argv, SFTTrainer.fit.__wrapped__.__name__], open(sys.argv[1], "w"))
"""
FAKE_TRAINER = """
class SFTTrainer:
    def fit(self, args, consumed_samples=0, num_update_steps_per_epoch=None): ...
    def save_logs_and_checkpoints(self, args, global_step, step_bar, logs_dict=None, client_states=None): ...
    def evaluate(self, eval_dataloader, steps=0): ...
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A package openrlhf 0.11.9 with one recipe: what is tested is the launcher's own work, not OpenRLHF's."""
    (tmp_path / "openrlhf-0.11.9.dist-info").mkdir()
    (tmp_path / "openrlhf-0.11.9.dist-info" / "METADATA").write_text("Name: openrlhf\nVersion: 0.11.9\n")
    for folder in ("openrlhf", "openrlhf/cli", "openrlhf/trainer"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
    (tmp_path / "openrlhf/cli/train_sft.py").write_text(FAKE_RECIPE)
    (tmp_path / "openrlhf/trainer/sft_trainer.py").write_text(FAKE_TRAINER)
    return tmp_path


def launched(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); sys.argv[0] = 'x'\n"
    code += "from mx_openrlhf.launcher import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run([sys.executable, "-c", code, *words], cwd=folder, capture_output=True, text=True, check=False)


def test_a_recipe_runs_as_main_with_its_own_words_and_a_patched_trainer(stand_in: Path) -> None:
    out = stand_in / "seen.json"
    words = (str(out), "--data.dataset", "a b", "--x=1", "--mxlike")
    ran = launched(stand_in, "--mx.policy", "A", "openrlhf.cli.train_sft", *words)
    assert ran.returncode == 0, ran.stderr
    name, argv, wrapped = json.loads(out.read_text())
    assert (name, tuple(argv[1:]), wrapped) == ("__main__", words, "fit")


def test_a_release_whose_trainer_differs_is_refused_before_it_trains(stand_in: Path) -> None:
    trainer = stand_in / "openrlhf/trainer/sft_trainer.py"
    trainer.write_text(trainer.read_text().replace("args, global_step", "step, args"))
    ran = launched(stand_in, "openrlhf.cli.train_sft", str(stand_in / "seen.json"))
    assert ran.returncode != 0 and "this release of openrlhf is not supported" in ran.stderr
    assert not (stand_in / "seen.json").exists()


def test_a_recipe_that_imports_nothing_of_ours_ends_with_an_error(stand_in: Path) -> None:
    (stand_in / "openrlhf/cli/train_sft.py").write_text("")
    ran = launched(stand_in, "openrlhf.cli.train_sft")
    assert ran.returncode != 0 and "never imported openrlhf.trainer.sft_trainer" in ran.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [(("--mx.policy", "Z"), "Z"), (("--mx.output_dir", "/dev/null/here"), "cannot be made")],
    ids=["policy", "folder"],
)
def test_what_would_fail_in_an_actor_fails_before_anything_is_loaded(
    stand_in: Path, words: tuple[str, str], says: str
) -> None:
    ran = launched(stand_in, *words, "openrlhf.cli.train_sft", str(stand_in / "seen.json"))
    assert ran.returncode == 2 and says in ran.stderr
    assert not (stand_in / "seen.json").exists()


def test_the_version_guard_stops_the_launch(stand_in: Path) -> None:
    (stand_in / "openrlhf-0.11.9.dist-info" / "METADATA").write_text("Name: openrlhf\nVersion: 0.12.0\n")
    ran = launched(stand_in, "openrlhf.cli.train_sft", str(stand_in / "seen.json"))
    assert ran.returncode == 2 and "openrlhf 0.12.0 is not supported" in ran.stderr
    assert not (stand_in / "seen.json").exists()
