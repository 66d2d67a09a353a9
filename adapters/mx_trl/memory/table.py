"""A plan as text."""

from __future__ import annotations

from collections.abc import Sequence

from .fitting import Fit
from .placement import Device
from .request import Request
from .suggestions import Suggestion
from .terms import Plan

MB = 1e6


def plan_lines(request: Request, plan: Plan) -> list[str]:
    """Each phase's peak, when it is, and its terms by kind and role in MB (10^6 bytes)."""
    model = f"{request.model}, {request.dtype}" + (f", LoRA r={request.lora_r}" if request.lora_r else "")
    lines = [
        f"{request.stage} of {model}, policy {request.policy}: {request.batch} x {request.accumulation} sequences of "
        f"{request.prompt_length} + {request.response_length} tokens"
    ]
    for phase in plan.phases:
        lines.append(f"\n{phase}: {plan.peak(phase) / MB:,.1f} MB, when {plan.at(phase).name}")
        lines += [f"  {term.kind:<24} {term.role:<10} {term.bytes / MB:>12,.1f}" for term in plan.terms(phase)]
    lines.append(f"\npeak: {plan.peak() / MB:,.1f} MB ({plan.peak() / 2**30:.2f} GiB)")
    lines += [f"  not there: {term.kind} of {term.role}, {term.bytes / MB:,.1f} MB" for term in plan.released]
    return [*lines, *(f"note: {note}" for note in plan.notes)]


def device_lines(devices: Sequence[Device]) -> list[str]:
    """Who stands where."""
    if len(devices) < 2:
        return []
    return ["", *(f"device {n}: {d.peak / MB:,.1f} MB ({', '.join(d.roles)})" for n, d in enumerate(devices))]


def suggestion_lines(found: Sequence[Suggestion]) -> list[str]:
    """What saves most first."""
    if not found:
        return ["", "nothing that the planner knows would lower the peak by 1%"]
    head = ["", "would lower the peak (each alone):"]
    return head + [
        f"  -{each.saved / MB:>10,.1f} MB  to {each.peak / MB:>10,.1f} MB  {each.what}: {each.how}" for each in found
    ]


def fit_lines(fit: Fit) -> list[str]:
    """The largest batch within a limit."""
    return [
        "",
        f"largest {fit.knob} within {fit.limit / 2**30:.2f} GiB: {fit.batch} (peak {fit.peak / 2**30:.2f} GiB)",
    ]
