"""The objective ``seconds``: times that were measured on this machine, never computed from something else."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

from ...errors import FormatError, MXError
from ...formats.spec import FP16, parse_pair
from ..patterns import first_five
from .objective import Objective, Place
from .recipe import Recipe

Key = tuple[int, int, int, str]
"""(out_features, in_features, rows, pair); the pair of an unquantised layer is ``FP16[bfloat16]``."""

COLUMNS = ("out_features", "in_features", "rows", "format", "seconds")

_CASE = re.compile(r"(\d+)x(\d+) M=(\d+)")
_BENCH_BASELINE, _BASELINE_DTYPE = "bf16", "bfloat16"


class SecondsTable:
    """Seconds of one call of a linear layer, by its size, the number of rows and the format."""

    def __init__(self, seconds: Mapping[Key, float], source: str) -> None:
        self.seconds, self.source = dict(seconds), source

    @classmethod
    def read(cls, path: str | Path) -> SecondsTable:
        """Read what ``mx-plugin bench linear --json`` printed, or a CSV
        ``out_features,in_features,rows,format,seconds``.

        ``format`` is a pair, or ``FP16[bfloat16]`` for an unquantised layer in that dtype.

        Raises:
            MXError: unreadable, or without a single measurement of a linear layer; names the file.
        """
        file = Path(path)
        try:
            text = file.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise MXError(f"cannot read measured seconds from {file}: {error}; check the path") from error
        found = _of_bench(text, file) if text.lstrip().startswith("{") else _of_csv(text, file)
        if not found:
            raise MXError(
                f"{file} holds no time of a linear layer; make one by: mx-plugin bench linear --json > {file}"
            )
        return cls(found, str(file))


def _of_bench(text: str, file: Path) -> dict[Key, float]:
    try:
        rows = json.loads(text)["rows"]
        found: dict[Key, float] = {}
        for row in rows:
            case = _CASE.fullmatch(row["case"])
            name = _bench_format(row["what"])
            if row["bench"] == "linear" and case and name:
                out_features, in_features, count = map(int, case.groups())
                # The baseline is measured again beside peers: the first is the one beside our own rows.
                found.setdefault((out_features, in_features, count, name), _time(row["seconds"]))
    except (ValueError, KeyError, TypeError) as error:
        raise MXError(f"{file} is not what mx-plugin bench --json prints: {type(error).__name__} {error}") from error
    return found


def _bench_format(what: str) -> str | None:
    if what == _BENCH_BASELINE:
        return f"{FP16}[{_BASELINE_DTYPE}]"
    try:
        return str(parse_pair(what)) if "/" in what else None
    except FormatError:
        return None  # a peer, or a line about limits


def _of_csv(text: str, file: Path) -> dict[Key, float]:
    reader = csv.DictReader(text.splitlines(), skipinitialspace=True)
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise MXError(f"{file}:1: the first line must be {','.join(COLUMNS)}, or the file JSON of mx-plugin bench")
    found: dict[Key, float] = {}
    for row in reader:
        try:
            name = row["format"] if row["format"].startswith(f"{FP16}[") else str(parse_pair(row["format"]))
            key = (int(row["out_features"]), int(row["in_features"]), int(row["rows"]), name)
            found[key] = _time(float(row["seconds"]))
        except (ValueError, TypeError, AttributeError, FormatError) as error:
            raise MXError(f"{file}:{reader.line_num}: {error}") from None
    return found


def _time(seconds: float) -> float:
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"seconds is {seconds}; a time is a finite number of 0 or more")
    return float(seconds)


class SecondsObjective(Objective):
    """Seconds of one step of ``recipe`` in linear layers: calls times the measured time of a call.

    Nothing is interpolated: every size, number of rows and format must have been measured. ``gradient`` has no
    such table, because a call's three products are not timed apart.
    """

    name = "seconds"
    unit = "s/step"

    def __init__(self, table: SecondsTable, recipe: Recipe) -> None:
        self.table, self.recipe = table, recipe

    def price(self, place: Place, format: str) -> float:
        """See the class."""
        if place.phase == "gradient":
            raise MXError(
                "no measured seconds for gradient: mx-plugin bench times the layer of rollout and reward; leave "
                "gradient out of --budget, or take --objective energy"
            )
        total, missing = 0.0, []
        for shape in place.shapes:
            name = format if format != FP16 else f"{FP16}[{shape.dtype}]"
            for rows, calls in self.recipe.calls(place.phase, place.layer):
                seconds = self.table.seconds.get((shape.out_features, shape.in_features, rows, name))
                if seconds is None:
                    missing.append(f"{shape.out_features}x{shape.in_features} M={rows} {name}")
                else:
                    total += calls * seconds
        if missing:
            raise MissingSeconds(missing, self.table.source)
        return total

    def notes(self) -> list[str]:
        return [f"seconds are measured ({self.table.source}), in linear layers only; one step: {self.recipe}"]


class MissingSeconds(MXError):
    """Sizes, rows and formats that nobody has measured; says which and by which command they are."""

    def __init__(self, missing: list[str], source: str) -> None:
        self.missing, self.source = tuple(dict.fromkeys(missing)), source
        super().__init__(
            f"{source} holds no time of {len(self.missing)} calls that the search needs: {first_five(self.missing)}; "
            f"measure them: {self._command()}"
        )

    def _command(self) -> str:
        shapes, rows, pairs = [], [], []
        for each in self.missing:
            shape, count, name = each.split(" ")
            shapes.append(shape)
            rows.append(int(count.removeprefix("M=")))
            if not name.startswith(FP16):
                pairs.append(name)
        listed = {"shapes": dict.fromkeys(shapes), "rows": sorted(set(rows)), "pairs": dict.fromkeys(pairs)}
        options = [f"--{name} {','.join(map(str, values))}" for name, values in listed.items() if values]
        command = f"mx-plugin bench linear {' '.join(options)} --json > bench.json"
        other = [each for each in self.missing if FP16 in each and _BASELINE_DTYPE not in each]
        if other:
            command += (
                f" (it times unquantised layers in {_BASELINE_DTYPE} only, not {other[0].split(' ')[2]}: give --dtype "
                f"{_BASELINE_DTYPE} if the model runs in it, or a CSV {','.join(COLUMNS)} with your own times)"
            )
        return command
