"""Every block of the README and of the docs is run, or read by what would run it, or listed with the reason why not.

Python runs, YAML is loaded, commands are read by their programs' own parsers. The cheap ones are run as well, and so is
every command of the pages in test_sessions.py.
"""

from __future__ import annotations

import doctest
import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mx_plugin import PrecisionPolicy
from mx_plugin.cli import main
from tests.docs.blocks import EVERY_BLOCK, PAGES, ROOT, Block, blocks_of, of_language, steps
from tests.docs.commands import VARIABLES, Unreadable, assignment, check, expand
from tests.docs.session import PAGES_RUN_WHOLE

CHEAP: tuple[tuple[str, ...], ...] = (("doctor",), ("plugins",), ("memory",), ("policy", "show"), ("policy", "search"))
"""Commands of mx-plugin that take a few seconds at most, where what they read is in the repository."""

NOT_RUN = {
    ("architecture.md", "mx_plugin/ "): "the tree of folders; below, a test looks for each",
    ("architecture.md", "trainer.train()"): "a drawing",
    ("conformance.md", "backend  without loads-is_a_backend"): "the log of `make mutation_kit`, which takes minutes",
    ("dashboard.md", "dashboard of runs/ppo: http"): "what a server prints: its port is the machine's",
    ("fpga.md", "bytes in ─> mx_receive"): "a drawing",
    ("fpga.md", "fpga: board simulated multiplied"): "the closing lines of `make demo_fpga`, which CI runs",
    ("plugins.md", "$ mx-plugin new"): "tests/plugins/test_tutorial.py follows the tutorial",
    ("plugins.md", "$ mx-plugin conformance acme"): "tests/plugins/test_tutorial.py runs it",
    ("plugins.md", '$ python -c "from mx_trl'): "tests/plugins/test_tutorial.py trains with what it wrote",
    ("plugins.md", "$ python examples/ppo_mx.py"): "tests/plugins/test_tutorial.py trains with what it wrote",
    ("stages.md", "error: 4 of 2312 rows"): "an error about real data; tests/stages/test_malformed.py reads its like",
    ("stages.md", "stage   status  policy"): "the table of a run on real models, which took eleven minutes",
    ("cli.md", "python -m mx_openrlhf"): "usage, which test_cli.py holds against the launcher",
}
"""Blocks of text that nothing runs: {(page, how it begins): why}."""


def parameters(found: Sequence[Block]) -> list[Any]:
    return [pytest.param(block, id=str(block)) for block in found if block.page not in PAGES_RUN_WHOLE]


# ---------------------------------------------------------------------------- python


def needs_a_trainer(block: Block) -> bool:
    """Does an ellipsis stand for the reader's own arguments, outside a comment?"""
    return "Trainer(..." in re.sub(r"#.*", "", block.text)


@pytest.mark.parametrize("block", parameters([one for one in of_language("python") if not needs_a_trainer(one)]))
def test_python_blocks_run(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block.text, str(block), "exec"), {"__name__": "docs"})


@pytest.mark.trl("<1.13")
@pytest.mark.parametrize("block", parameters([one for one in of_language("python") if needs_a_trainer(one)]))
def test_blocks_that_need_a_trainer_train_a_small_one(
    block: Block, make_ppo: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the reader's own arguments stand, ``PPOTrainer(...)`` makes a real trainer of the embedded model."""
    import trl.experimental.ppo as ppo

    real = ppo.PPOTrainer

    def trainer(*given: Any, callbacks: Sequence[Any]) -> Any:
        assert given == (...,)
        return make_ppo(tmp_path, callbacks, trainer_class=real)

    monkeypatch.setattr(ppo, "PPOTrainer", trainer)
    monkeypatch.chdir(tmp_path)
    exec(compile(block.text, str(block), "exec"), {"__name__": "docs"})
    written = {path.name for path in (tmp_path / "runs/x/policy_C").iterdir()}
    assert {"config.json", "energy.csv", "metrics.csv", "metrics.jsonl", "training_log.txt"} <= written


class AnyPort(doctest.OutputChecker):
    """Terminals and ports are whatever the system gives."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return super().check_output(self._plain(want), self._plain(got), optionflags)

    @staticmethod
    def _plain(text: str) -> str:
        return re.sub(r"127\.0\.0\.1:\d+", "PORT", re.sub(r"/dev/pts/\d+", "TERMINAL", text))


@pytest.mark.slow
@pytest.mark.parametrize("block", parameters(of_language("pycon")))
def test_a_dialogue_with_python_goes_as_it_is_written(
    block: Block, verilator: None, capsys: pytest.CaptureFixture[str]
) -> None:
    test = doctest.DocTestParser().get_doctest(block.text, {}, str(block), block.page, block.line)
    runner = doctest.DocTestRunner(AnyPort(), verbose=False)
    with capsys.disabled():
        result = runner.run(test)
    assert result.attempted >= 2 and not result.failed


# ---------------------------------------------------------------------------- files


@pytest.mark.parametrize("block", parameters(of_language("yaml")))
def test_yaml_blocks_are_policies_alert_rules_or_pipelines(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mx_trl.dashboard.rules import load_rules
    from mx_trl.pipeline.plan import read_plan

    path = tmp_path / "block.yaml"
    path.write_text(block.text, encoding="utf-8")
    if block.text.startswith("# alerts"):
        assert load_rules(path)
    elif "\nstages:" in block.text:
        monkeypatch.setenv("MX_TEST_DATA", str(tmp_path))
        for config in (ROOT / "examples/configs").glob("*.yaml"):
            (tmp_path / config.name).write_text(config.read_text(encoding="utf-8"), encoding="utf-8")
        assert read_plan(path).stages
    else:
        assert PrecisionPolicy.from_yaml(path).name


@pytest.mark.parametrize("block", parameters(of_language("toml")))
def test_toml_blocks_name_entry_points_of_the_group_that_is_read(block: Block) -> None:
    from mx_plugin.hookspecs import PROJECT

    groups = tomllib.loads(block.text)["project"]["entry-points"]
    assert list(groups) == [PROJECT]
    assert all(re.fullmatch(r"\w+(\.\w+)*", module) for module in groups[PROJECT].values())


# ---------------------------------------------------------------------------- commands


@pytest.mark.trl("<1.13")
@pytest.mark.parametrize("block", [pytest.param(block, id=str(block)) for block in of_language("console")])
def test_commands_are_understood_by_their_programs(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MX_TEST_DATA", "data")
    commands = [step.command for step in steps(block)]
    if block.page in PAGES_RUN_WHOLE:  # a session types these for real, and has the scripts that the page writes
        commands = [command for command in commands if command.split()[0] not in (".", "python")]
    assert check(commands, variables_at(block)) == len(commands)


def variables_at(block: Block) -> dict[str, str]:
    """What the page has set up to this block and in it."""
    earlier = [one for one in of_language("console") if one.page == block.page and one.line <= block.line]
    commands = (step.command for one in earlier for step in steps(one))
    return VARIABLES | {name: value for name, value in map(assignment, commands) if name}


def cheap_commands() -> list[Any]:
    found: dict[str, list[str]] = {}
    for block in of_language("console"):
        # One that begins with no command is told of by the test above, and must not end the collection of all.
        for step in steps(block) if block.page not in PAGES_RUN_WHOLE and block.text.startswith("$ ") else ():
            if not step.command.startswith("mx-plugin "):
                continue
            words = expand(step.command, variables_at(block))[1:]
            read = [word for before, word in pairwise(words) if before in ("--matrix", "show")]
            there = all((ROOT / path).exists() for path in read if path.endswith((".csv", ".yaml")))
            if there and "--verify" not in words and any(tuple(words[: len(start)]) == start for start in CHEAP):
                found[" ".join(words)] = words
    return [pytest.param(words, id=name[:60]) for name, words in found.items()]


@pytest.mark.parametrize("words", cheap_commands())
def test_cheap_commands_run(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that shows the repository's files and takes what is written."""
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    if "--output" in words:
        (tmp_path / words[words.index("--output") + 1]).parent.mkdir(parents=True, exist_ok=True)
    assert main(words) in ((0, 1) if words[0] == "memory" else (0,))
    if "--output" in words and (ROOT / (output := words[words.index("--output") + 1])).exists():
        written, kept = (PrecisionPolicy.from_yaml(folder / output) for folder in (tmp_path, ROOT))
        assert replace(written, description="") == replace(kept, description=""), "the page's command makes that file"


# ---------------------------------------------------------------------------- nothing is left


def reason(block: Block) -> str | None:
    starts = {start: why for (page, start), why in NOT_RUN.items() if page == block.page}
    return next((why for start, why in starts.items() if block.text.lstrip().startswith(start)), None)


CHECKED = {"python", "pycon", "yaml", "toml", "console"}


@pytest.mark.parametrize("block", [pytest.param(block, id=str(block)) for block in EVERY_BLOCK])
def test_no_block_is_left_unchecked(block: Block) -> None:
    directive = re.fullmatch(r"\{[\w:-]+\}.*", block.language)  # Sphinx runs these when the site is built
    expected = block.language == "text" and block.page in PAGES_RUN_WHOLE  # compared with what is printed
    known = block.language in CHECKED or directive or expected or (block.language == "text" and reason(block))
    assert known, f"{block} is a block of {block.language or 'no language'}: say which, or give a reason in NOT_RUN"


def test_every_reason_is_that_of_a_block() -> None:
    used = {(block.page, start) for block in EVERY_BLOCK for page, start in NOT_RUN
            if page == block.page and block.language == "text" and block.text.lstrip().startswith(start)}  # fmt: skip
    assert used == set(NOT_RUN)


def test_every_folder_of_the_architectures_tree_exists() -> None:
    (tree,) = (block for block in EVERY_BLOCK if block.text.startswith("mx_plugin/ "))
    folder = ROOT
    found = 0
    for indent, path in re.findall(r"^( *)([\w/]+/) ", tree.text, re.M):
        folder = folder if indent else ROOT / path
        assert (folder / path if indent else folder).is_dir(), f"{tree}: {path}"
        found += 1
    assert found >= 12


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("mx-plugin polish", "no command 'polish'"),
        ("mx-plugin policy show C --loud", "--loud"),
        ("mx-plugin report docs/nowhere", "there is no docs/nowhere"),
        ("accelerate launch examples/ppo_mx.py --polcy C", "polcy"),
        ("accelerate launch examples/qpo_mx.py", "there is no examples/qpo_mx.py"),
        ("mx-plugin experiment --stage grpo --output r -- --lerning_rate 1", "lerning_rate"),
        ("torchrun --nproc_per_nod 2 x.py", "nproc_per_nod|training_script|there is no"),
        ("python -m mx_openrlhf --mx.polcy C openrlhf.cli.train_sft", "polcy"),
        ("make love", "love"),
        ("python -m pytest tests/nowhere", "there is no tests/nowhere"),
        ("python examples/ppo_mx.py --polcy C", "polcy"),
        ("pip install 'mx-plugin[everything]'", "no extra everything"),
        ("rm -rf runs", "nobody here knows"),
        ("cat $NOWHERE", "NOWHERE is not set"),
    ],
)
@pytest.mark.trl("<1.13")
def test_a_command_that_its_program_would_refuse_is_found(command: str, why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        check([command])


def test_blocks_are_found_with_their_lines_and_an_open_one_is_an_error() -> None:
    (inner,) = blocks_of("text\n  ```console\n  $ a \\\n      b\n  out\n  ```\n", "page")
    assert (inner.line, inner.language) == (2, "console")
    (step,) = steps(inner)
    assert (step.command, step.output) == ("a b", "out\n")
    with pytest.raises(ValueError, match="page:1"):
        blocks_of("```\nopen", "page")
    assert VARIABLES and len(PAGES) > 20 and len(EVERY_BLOCK) > 60
