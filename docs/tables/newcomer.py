"""A plugin author's first path, timed: the tutorial's commands, in an environment made for it from the wheel.

    make dist && python docs/tables/newcomer.py dist/*.whl      (writes the table of docs/plugins.md)

What a person reads and types takes no time here: the tutorial's method is pasted by this script.
"""

from __future__ import annotations

import os
import re
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from textwrap import indent

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "plugins.md"
BEGIN, END = "<!-- begin table: python docs/tables/newcomer.py dist/*.whl -->\n", "<!-- end table -->\n"
MODULE = Path("acme-mx") / "src" / "acme_mx" / "backend.py"
RIGHT, WRONG = "range(0, x.shape[1], 32)", "range(0, x.shape[1] - 31, 32)"


class Journey:
    """Commands in one folder, each with the seconds that it took; all see the environment's programs first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[tuple[str, float, float]] = []
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MX_PLUGIN_"))}
        programs = f"{folder / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**inherited, "PATH": programs, "OMP_NUM_THREADS": "1"}

    def run(self, command: str, shown: str = "", status: int = 0) -> None:
        """Run it; SystemExit with what it printed where the status is another."""
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(
            shlex.split(command), cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(f"{seconds:7.1f} s  {command}", flush=True)
        if done.returncode != status:
            raise SystemExit(
                f"status {done.returncode}, should be {status}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
            )
        self.rows.append((shown or f"`{command}`", seconds, cpu))

    def write_method(self, wrong: bool = False) -> None:
        """The tutorial's method in the place of the written one, or its mistake."""
        file = self.folder / MODULE
        code = indent(method().replace(RIGHT, WRONG) if wrong else method(), "    ")
        text, times = re.subn(
            r"    def multiply\(.*?(?=\n    @property)", lambda _: code, file.read_text("utf-8"), flags=re.S
        )
        assert times == 1
        file.write_text(text, "utf-8")


def method() -> str:
    """The tutorial's block that defines ``multiply``, without its imports."""
    (code,) = [
        each for each in re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S) if "def multiply" in each
    ]
    return code[code.index("def multiply") :]


def train() -> str:
    """The tutorial's command that trains without a checkout."""
    found = re.search(r"\$ (python -c \".*\")", PAGE.read_text("utf-8"))
    assert found is not None
    return found[1]


def follow(wheel: Path, folder: Path) -> list[tuple[str, float, float]]:
    """(command, seconds, seconds of the processors) of the whole path."""
    journey = Journey(folder)
    journey.run(f"{sys.executable} -m venv venv", "`python -m venv`")
    journey.run(f"pip install -q torch=={torch_version()}", "`pip install torch`")
    journey.run(f"pip install -q '{wheel}[ppo]'", "`pip install 'mx-plugin[ppo]'`, from the wheel")
    journey.run("mx-plugin new backend acme")
    journey.run("pip install -q -e './acme-mx[test]'", "`pip install -e './acme-mx[test]'`")
    journey.run("pytest acme-mx", "`pytest acme-mx`, as it was written")
    journey.run("mx-plugin plugins")
    journey.write_method(wrong=True)
    journey.run("pytest acme-mx", "`pytest acme-mx`, with the mistake: it fails", status=1)
    journey.write_method()
    journey.run("pytest acme-mx", "`pytest acme-mx`, with the method")
    journey.run("mx-plugin conformance acme", "`mx-plugin conformance acme`, the level `trl` included")
    journey.run(train(), '`python -c "from mx_trl import RLHFTrainer; ..."`: two steps of PPO')
    assert (folder / "runs" / "rlhf" / "policy_C" / "energy.csv").is_file()
    return journey.rows


def torch_version() -> str:
    return (ROOT / "Makefile").read_text("utf-8").split("torch==")[1].split(")")[0]


def table(rows: list[tuple[str, float, float]]) -> str:
    lines = ["| command | seconds | of processors |", "|---|---|---|"]
    lines += [f"| {command} | {seconds:.1f} | {cpu:.1f} |" for command, seconds, cpu in rows]
    lines.append(f"| all of them | {sum(row[1] for row in rows):.1f} | {sum(row[2] for row in rows):.1f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    wheel = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory(prefix="newcomer_") as name:
        made = table(follow(wheel, Path(name)))
    text = PAGE.read_text("utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n{made}\n{END}{after}", "utf-8")
    print(made)


if __name__ == "__main__":
    main()
