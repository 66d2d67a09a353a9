"""A profile that is killed, or whose file is damaged, ends in the same bytes as an unbroken one - or says why not."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mx_plugin.sensitivity import Profile, ProfileError
from tests.sensitivity.resuming import files, run
from tests.sensitivity.tiny import TinyModel, tiny_batches


class StopAfter:
    """Raises in the middle of a profile, as Ctrl-C does."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def begin(self, total: int) -> None: ...

    def step(self, what: str) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt

    def end(self) -> None: ...


def interrupted(folder: Path, steps: int, **changes: Any) -> Path:
    """The unfinished profile of so many measurements."""
    with pytest.raises(KeyboardInterrupt):
        run(folder, progress=StopAfter(steps), **changes)
    return folder / "matrix.csv.partial"


def test_a_file_cut_anywhere_is_resumed_to_the_same_bytes(tmp_path: Path, unbroken: dict[str, bytes]) -> None:
    whole = interrupted(tmp_path / "whole", 40).read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    assert len(ends) >= 30
    for number, cut in enumerate([ends[0] - 1, ends[7] - 2, len(whole) - 1]):
        folder = tmp_path / f"cut{number}"
        folder.mkdir()
        (folder / "matrix.csv.partial").write_bytes(whole[:cut])
        run(folder)
        assert files(folder) == unbroken, cut


def test_killed_between_writing_and_tidying_up_it_is_found_finished(tmp_path: Path, unbroken: dict[str, bytes]) -> None:
    folder = tmp_path / "late"
    partial = interrupted(folder, 10).read_bytes()
    for name, content in unbroken.items():
        (folder / name).write_bytes(content)
    (folder / "matrix.csv.partial").write_bytes(partial)
    found = run(folder)
    assert files(folder) == unbroken
    assert found == Profile.read(folder / "matrix.csv")


def test_measurements_that_are_done_are_not_made_again(tmp_path: Path) -> None:
    partial = interrupted(tmp_path / "run", 20)
    lines = partial.read_bytes().splitlines(keepends=True)
    record = json.loads(lines[3])
    record["costs"]["kl"] = 123.0
    partial.write_bytes(b"".join([*lines[:3], json.dumps(record).encode() + b"\n", *lines[4:]]))
    assert run(tmp_path / "run").costs("kl")[record["key"][4], record["key"][2]] == 123.0


def test_without_resume_an_unfinished_profile_is_not_thrown_away(tmp_path: Path) -> None:
    partial = interrupted(tmp_path / "run", 5)
    before = partial.read_bytes()
    with pytest.raises(ProfileError, match=r"unfinished profile of 5 measurements: continue it with resume"):
        run(tmp_path / "run", resume=False)
    assert partial.read_bytes() == before


def test_a_file_of_another_model_names_the_first_layers_that_differ(tmp_path: Path) -> None:
    partial = interrupted(tmp_path / "run", 5)
    other = TinyModel()
    with torch.no_grad():
        other.blocks[1].up.weight[0, 0] += 1
        other.blocks[2].down.weight[0, 0] += 1
    with pytest.raises(ProfileError, match=r"something else: policy: the weights of blocks.1.up, blocks.2.down differ"):
        run(tmp_path / "run", model=other)
    renamed = TinyModel()
    renamed.blocks.append(nn.Sequential(nn.Linear(64, 64)))
    with pytest.raises(ProfileError, match=r"this model has layers that it has not: blocks\.3\.0"):
        run(tmp_path / "run", model=renamed)
    wider = TinyModel()
    wider.blocks[0].up = nn.Linear(64, 128)
    wider.blocks[0].down = nn.Linear(128, 64)
    with pytest.raises(ProfileError, match=r"differ in blocks.0.up \(64x96 float32, here 64x128 float32\)"):
        run(tmp_path / "run", model=wider)
    embedded = TinyModel()
    with torch.no_grad():
        embedded.embed.weight[0] += 1
    with pytest.raises(ProfileError, match="layers are the same, but embeddings, norms or other parameters are not"):
        run(tmp_path / "run", model=embedded)
    assert partial.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"formats": ["MXFP4"]}, r"formats was \['MXFP4', 'MXFP8'\], now \['MXFP4'\]"),
        ({"seed": 4}, "seed was 0, now 4"),
        ({"exclude": ["lm_head"]}, r"exclude was \[\], now \['lm_head'\]"),
        ({"batches": tiny_batches(seed=9)}, "batches was"),
        ({"backend": "reference"}, "backend was 'cpu', now 'reference'"),
    ],
)
def test_a_file_of_other_settings_or_data_says_which(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    interrupted(tmp_path / "run", 5)
    with pytest.raises(ProfileError, match=message):
        run(tmp_path / "run", **changes)


def test_a_finished_profile_of_something_else_is_not_taken_for_this_one(tmp_path: Path) -> None:
    run(tmp_path / "run")
    with pytest.raises(ProfileError, match=r"matrix\.csv is the profile of something else: seed was 0, now 1"):
        run(tmp_path / "run", seed=1)
    again = run(tmp_path / "run", seed=1, resume=False)
    assert Profile.read(tmp_path / "run" / "matrix.csv").identity["seed"] == 1 == again.identity["seed"]


def test_a_damaged_line_in_the_middle_names_itself(tmp_path: Path) -> None:
    partial = interrupted(tmp_path / "run", 6)
    lines = partial.read_bytes().splitlines(keepends=True)
    partial.write_bytes(b"".join([*lines[:2], b'{"key": ["roll\n', *lines[3:]]))
    with pytest.raises(ProfileError, match=r"matrix\.csv\.partial, line 3: damaged"):
        run(tmp_path / "run")
    partial.write_bytes(b"".join([*lines[:2], b'{"key": 7}\n', *lines[3:]]))
    with pytest.raises(ProfileError, match="line 3: no measurement"):
        run(tmp_path / "run")
    partial.write_bytes(b"layer,phase\n")
    with pytest.raises(ProfileError, match="line 1: damaged"):
        run(tmp_path / "run")


def test_a_file_that_cannot_grow_is_one_clear_error_and_resumed_when_it_can(
    tmp_path: Path, unbroken: dict[str, bytes]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        with pytest.raises(ProfileError, match=r"cannot write .*matrix\.csv\.partial: File too large; make room"):
            run(tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    run(tmp_path / "run")
    assert files(tmp_path / "run") == unbroken
