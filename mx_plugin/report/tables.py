"""The report's tables: verdicts, costs, environment. Everything that comes from a file is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from ..experiments.verdict import VERDICTS
from .collect import ReportData
from .costs import Cost, energy_ratios, joules_measured, joules_modelled, seconds


@dataclass(frozen=True)
class Html:
    """Markup that is safe to put into the page as it is."""

    text: str


Cell = str | Html


def table(head: Sequence[str], rows: Iterable[Sequence[Cell]], kind: str = "") -> str:
    """A table whose rows become cards on a narrow page: each cell knows its column's name."""
    cells = "".join(f"<th scope='col'>{escape(text)}</th>" for text in head)
    body = "".join(
        "<tr>"
        + "".join(
            f"<td data-label='{escape(name, quote=True)}'><span>{_cell(cell)}</span></td>"
            for name, cell in zip(head, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return f"<table class='{kind}'><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"


def _cell(cell: Cell) -> str:
    return cell.text if isinstance(cell, Html) else escape(cell)


def number(value: float | None, digits: int = 3, signed: bool = False) -> str:
    """``n/a`` for what is not known."""
    if value is None:
        return "n/a"
    return f"{value:+.{digits}g}" if signed else f"{value:.{digits}g}"


def interval(found: Mapping[str, Any] | None, signed: bool = False, percent: bool = False) -> Cell:
    """A value with its interval below it."""
    if found is None or found["value"] is None:
        return "n/a"
    if percent:
        low, high = (f"{100 * found[end]:.1f}" for end in ("low", "high"))
        return Html(f"{100 * found['value']:.1f}% <small>[{low}, {high}]</small>")
    value, low, high = (number(found[key], signed=signed) for key in ("value", "low", "high"))
    return Html(f"{value} <small>[{low}, {high}]</small>" if low != "n/a" else value)


# ---------------------------------------------------------------------------- verdicts


def verdict_section(comparison: Mapping[str, Any]) -> str:
    """What was declared, what the baseline did, and for each form a table with a sentence a run."""
    margin = comparison["margin"]
    declared = (
        f"Non-inferiority margin, declared before the first run: {margin['metric']} {margin['value']:g}."
        if margin
        else "No non-inferiority margin was declared, so nothing can be called non-inferior."
    )
    parts = [f"<p>Judge: <b>{escape(str(comparison['judge']))}</b>, always in full precision. {escape(declared)}</p>"]
    if comparison.get("judge_declared") not in (None, comparison["judge"]):
        parts.append(
            f"<p class='warn'>The plan declared another judge, {escape(str(comparison['judge_declared']))}.</p>"
        )
    for form, start in comparison["baseline_over_start"].items():
        parts.append(
            f"<h3>{escape(form.capitalize())}</h3><p>{escape(start['why'])}. {_detectable(comparison, form)}</p>"
        )
        rows = [_verdict_row(name, forms[form]) for name, forms in comparison["runs"].items() if form in forms]
        head = ("run", "verdict", "win rate", "judge", "KL to start", "perplexity", "in words")
        parts.append(table(head, rows, "verdicts"))
        parts += _controls(comparison, form)
    if comparison["not_evaluated"]:
        parts.append(f"<p class='warn'>Not evaluated: {escape(', '.join(comparison['not_evaluated']))}.</p>")
    return "".join(parts)


def _detectable(comparison: Mapping[str, Any], form: str) -> str:
    noise = comparison["noise"][form]
    words = [
        f"{name} {number(noise[metric]['minimum_detectable_effect'])}"
        for metric, name in (("judge", "judge"), ("win_rate", "win rate"))
        if noise.get(metric, {}).get("minimum_detectable_effect") is not None
    ]
    if not words:
        return "With one seed no minimum detectable effect is known."
    power = f"{comparison['power']:.0%}"
    return escape(f"Minimum detectable effect (power {power}, from {noise['judge']['from']}): {', '.join(words)}.")


def _verdict_row(name: str, run: Mapping[str, Any]) -> tuple[Cell, ...]:
    means, deltas = run["means"], run.get("deltas", {})
    word = run.get("verdict")
    shown = {metric: interval(means.get(metric)) for metric in ("judge", "kl_reference", "perplexity")}
    if word is None:
        return (Html(f"<b>{escape(name)}</b>"), Html("<i>baseline</i>"), "", shown["judge"], shown["kl_reference"],
                shown["perplexity"], f"{len(run['seeds'])} seeds")  # fmt: skip
    rate = run["win_rate"]
    counted = f"<br><small>{rate['wins']} won, {rate['ties']} tied, {rate['losses']} lost</small>"
    kind = word if word in VERDICTS else "inconclusive"
    return (
        Html(f"<b>{escape(name)}</b>"),
        Html(f"<span class='badge {escape(kind)}'>{escape(word)}</span>"),
        Html(_cell(interval(rate, percent=True)) + counted),
        Html(_cell(shown["judge"]) + _delta(deltas.get("judge"))),
        Html(_cell(shown["kl_reference"]) + _delta(deltas.get("kl_reference"))),
        Html(_cell(shown["perplexity"]) + _delta(deltas.get("perplexity"))),
        run["why"],
    )


def _delta(found: Mapping[str, Any] | None) -> str:
    return "" if found is None else f"<br><small>difference {_cell(interval(found, signed=True))}</small>"


def _controls(comparison: Mapping[str, Any], form: str) -> list[str]:
    rows = [
        (name, interval(forms[form]["win_rate"], percent=True),
         *(interval(forms[form]["deltas"].get(m), signed=True) for m in ("judge", "kl_reference", "mismatch_kl")))
        for name, forms in comparison["controls"].items() if form in forms
    ]  # fmt: skip
    if not rows:
        return []
    head = ("control", "win rate", "judge difference", "KL to start difference", "held-out mismatch KL difference")
    return [f"<h4>Controls, {escape(form)}</h4>", table(head, rows)]


# ---------------------------------------------------------------------------- costs


def cost_table(data: ReportData) -> str:
    """Seconds, joules and their ratios to the baseline, by run."""
    times, meters, modelled, ratios = seconds(data), joules_measured(data), joules_modelled(data), energy_ratios(data)
    head = ["run", "seeds", "seconds, measured"]
    head += [f"joules measured by {source}" for source in meters]
    for source in modelled:
        head += [f"joules, {source}"]
        head += [f"energy over {data.baseline}"] if source in ratios else []
    rows: list[list[Cell]] = []
    for name, runs in data.by_name().items():
        cells: list[Cell] = [Html(f"<b>{escape(name)}</b>"), str(len(runs))]
        cells += [_range(costs.get(name), len(runs) > 1) for costs in (times, *meters.values())]
        for source, costs in modelled.items():
            cells.append(_range(costs.get(name), True))
            if source in ratios:
                cells.append(_ratio(ratios[source].get(name), name == data.baseline))
        rows.append(cells)
    notes = ["Seconds and measured joules are means of the seeds, in brackets the least and the most."]
    if modelled:
        notes.append("Modelled joules are estimates; in brackets what the energy table's ranges allow.")
    if ratios:
        notes.append(
            f"Energy over {data.baseline}: in brackets the least and the largest ratio that any choice of energies "
            "within the table's ranges gives, the same choice for both runs."
        )
    unknown = sorted({cost.words for costs in modelled.values() for cost in costs.values() if "unknown" in cost.words})
    return table(head, rows) + f"<p><small>{escape(' '.join([*notes, *unknown]))}</small></p>"


def _range(cost: Cost | None, limits: bool) -> Cell:
    if cost is None:
        return "n/a"
    if not limits or cost.low == cost.high == cost.value:
        return f"{cost.value:.4g}"
    return Html(f"{cost.value:.4g} <small>[{cost.low:.4g}, {cost.high:.4g}]</small>")


def _ratio(found: tuple[float, tuple[float, float] | None] | None, baseline: bool) -> Cell:
    if baseline:
        return "1"
    if found is None:
        return "n/a"
    value, bounds = found
    limits = f" <small>[{bounds[0]:.3f}, {bounds[1]:.3f}]</small>" if bounds else ""
    return Html(f"{value:.3f}{limits}")


# ---------------------------------------------------------------------------- environment


def environment(data: ReportData) -> str:
    """Command, plan, versions and the options that runs were made with."""
    facts: dict[str, str] = {"folder": str(data.path)}
    config = data.runs[0].config
    versions: dict[str, Any] = dict(config.get("versions") or {})
    blocks = []
    if data.plan is not None:
        plan = data.plan
        facts |= {
            "stage": plan.stage, "steps": str(plan.num_steps), "seeds": ", ".join(map(str, plan.seeds)),
            "threads a run": str(plan.threads), "start": str(plan.start.get("model", "")),
            "start's SHA-256": str(plan.start.get("sha256", "")),
        }  # fmt: skip
        versions |= plan.versions
        commands = "\n".join(
            filter(None, (plan.command, f"mx-plugin evaluate {data.path}", f"mx-plugin report {data.path}"))
        )
        blocks.append(_block("Commands", commands, True))
        options = plan.recipe.get("options") or {}
        blocks.append(_block("Recipe", "\n".join(f"{k}: {v}" for k, v in options.items()), False))
    else:
        facts["seed"] = str(config.get("seed", "n/a"))
    facts["backend"] = str(config.get("backend", "n/a"))
    facts |= {f"version of {name}": str(version) for name, version in versions.items()}
    for name, text in data.policies.items():
        blocks.append(_block(f"Policy {name}", text, False))
    rows = [(name, value) for name, value in facts.items() if value]
    return table(("what", "value"), rows, "facts") + "".join(blocks)


def _block(title: str, text: str, opened: bool) -> str:
    state = " open" if opened else ""
    return f"<details{state}><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>" if text else ""
