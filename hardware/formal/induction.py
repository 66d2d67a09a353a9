"""k-induction over a model that yosys' write_smt2 has written, one question to Z3 for each assertion.

What holds in the first ``depth`` states from reset on, and in every state after ``depth`` states in a row in which all
assertions held, holds always (Sheeran, Singh, Stalmarck: Checking Safety Properties Using Induction and a SAT-Solver,
FMCAD 2000).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import z3

FAILS, HOLDS, OPEN = "fails", "holds", "not decided"


@dataclass(frozen=True)
class Model:
    """What yosys wrote, and the module that it is of."""

    text: str
    top: str

    def claims(self) -> dict[str, str]:
        """Assertions: by name, the function of a state that says whether it holds there."""
        return self._named("assert")

    def cases(self) -> dict[str, str]:
        """What must be possible, so that nothing holds for want of a case: cover statements, as ``claims``."""
        return self._named("cover")

    def _named(self, kind: str) -> dict[str, str]:
        found = re.findall(rf"^; yosys-smt2-{kind} (\d+) (\S+)", self.text, re.MULTILINE)
        named = {name: f"|{self.top}_{kind[0]} {number}|" for number, name in found}
        if not named or len(named) != len(found):
            raise ValueError(f"{self.top}: {len(found)} {kind} statements with {len(named)} names: each needs its own")
        return named


def formulas(model: Model, script: str) -> list[z3.BoolRef]:
    """The assertions of ``script`` about states s0, s1, ..., with a constant for each register of each state.

    As functions of a state of an abstract sort, as yosys writes them, they keep Z3 from its solver for bit vectors.
    """
    states = sorted(set(re.findall(r"\bs\d+\b", script)))
    declared = "".join(f"(declare-fun {state} () |{model.top}_s|)\n" for state in states)
    found = list(z3.parse_smt2_string(model.text + declared + script))
    registers: list[tuple[z3.ExprRef, z3.ExprRef]] = []
    seen: set[int] = set()
    waiting: list[z3.ExprRef] = list(found)
    while waiting:
        term = waiting.pop()
        if term.get_id() in seen:
            continue
        seen.add(term.get_id())
        if term.num_args() == 1 and term.arg(0).sort().name() == f"{model.top}_s":
            registers.append((term, z3.Const(f"{term.decl().name()}@{term.arg(0)}", term.sort())))
        else:
            waiting += term.children()
    return [z3.substitute(formula, *registers) for formula in found]


def assume(model: Model, states: range) -> str:
    """Assumptions in each state, and a step from each to the next."""
    lines = [f"(assert (|{model.top}_u| s{i}))(assert (|{model.top}_h| s{i}))" for i in states]
    return "\n".join(lines + [f"(assert (|{model.top}_t| s{i} s{i + 1}))" for i in states[:-1]]) + "\n"


def ask(formulas: list[z3.BoolRef], seconds: float) -> z3.CheckSatResult:
    solver = z3.SolverFor("QF_AUFBV")
    solver.set("timeout", int(1000 * seconds))
    solver.add(*formulas)
    return solver.check()


def start(model: Model, depth: int, seconds: float) -> str:
    """Whether every assertion holds in the first ``depth`` states."""
    top, states = model.top, range(depth)
    claims = " ".join(f"(|{top}_a| s{i})" for i in states)
    script = f"(assert (|{top}_i| s0))\n{assume(model, states)}(assert (not (and true {claims})))"
    return verdict(ask(formulas(model, script), seconds))


def step(model: Model, depth: int, claim: str, seconds: float) -> str:
    """Whether ``claim`` holds after ``depth`` states in which all assertions held."""
    known, last = after(model, depth)
    return verdict(ask([*known, z3.Not(last[claim])], seconds))


def possible(model: Model, depth: int, case: str, seconds: float) -> str:
    """Whether ``case`` can be met after ``depth`` states in which all assertions held."""
    known, last = after(model, depth)
    answer = ask([*known, last[case]], seconds)
    return HOLDS if answer == z3.sat else FAILS if answer == z3.unsat else OPEN


@lru_cache(maxsize=1)
def after(model: Model, depth: int) -> tuple[list[z3.BoolRef], dict[str, z3.BoolRef]]:
    """What is known of ``depth`` states in which all assertions held and of one more, and each claim and case of that.

    All are read at once, because that takes as long as most answers.
    """
    functions = {**model.claims(), **model.cases()}
    known = assume(model, range(depth + 1)) + "".join(f"(assert (|{model.top}_a| s{i}))\n" for i in range(depth))
    asked = "".join(f"(assert ({function} s{depth}))\n" for function in functions.values())
    found = formulas(model, known + asked)
    return found[: -len(functions)], dict(zip(functions, found[-len(functions) :], strict=True))


def verdict(answer: z3.CheckSatResult) -> str:
    return HOLDS if answer == z3.unsat else FAILS if answer == z3.sat else OPEN
