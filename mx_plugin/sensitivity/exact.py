"""The exact engine: one pass over the data for each layer and format, alone and in company."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

from ..precision.entry import layer_formats
from ..precision.formats import LayerFormats
from .errors import ProfileError
from .journal import Journal, Key
from .measures import Costs, Measure
from .replay import Replay

log = logging.getLogger(__name__)

ALONE = "alone"
"""One layer is quantised, the others are not."""
ALL = "all"
"""Every layer is quantised."""
ALL_BUT = "all_but"
"""Every layer but one is quantised."""

ACTIVATIONS = "MXFP8"
"""What completes a format that is a single name, as in a policy that does not say otherwise."""

Step = Callable[[str], None]
"""Told of each measurement that is done, in words."""


class Exact:
    """Measures one scope: ``alone`` for each layer and format, ``all`` for each format, ``all_but`` for each of both.

    Args:
        formats: entries as a policy writes them, names or pairs.
        scale_rule: of all casts.
    """

    def __init__(self, measure: Measure, formats: Sequence[str], scale_rule: str, journal: Journal) -> None:
        self.measure = measure
        self.subject = measure.subject
        self.formats = tuple(formats)
        self.scale_rule = scale_rule
        self.journal = journal

    def entry(self, fmt: str) -> LayerFormats:
        """The three products of a format in this scope's phase."""
        return layer_formats(fmt, self.subject.phase, ACTIVATIONS, self.scale_rule)

    def keys(self, fmt: str) -> Iterator[Key]:
        """Everything that is measured in one format, in the order in which it is."""
        names = [layer.name for layer in self.subject.layers]
        for name in names:
            yield self._key(fmt, ALONE, name)
        yield self._key(fmt, ALL, "")
        if len(names) > 1:
            for name in names:
                yield self._key(fmt, ALL_BUT, name)

    def _key(self, fmt: str, kind: str, layer: str) -> Key:
        return (self.subject.phase, self.subject.role, fmt, kind, layer)

    @property
    def total(self) -> int:
        """Number of measurements."""
        return sum(1 for fmt in self.formats for _ in self.keys(fmt))

    def run(self, step: Step) -> None:
        """Measure what the journal has not.

        Raises:
            ProfileError: the unquantised model is broken; the journal cannot be written.
        """
        missing = sum(key not in self.journal for fmt in self.formats for key in self.keys(fmt))
        for _ in range(self.total - missing):
            step(f"{self.subject.scope}: taken over")
        if not missing:
            return
        plain = Replay(self.subject.model, self.subject.layers) if self.measure.replays else None
        self.measure.prepare(plain)
        idle = set(self.subject.never_executed())
        if idle:
            log.warning("%s: no pass executes %s: they get no row; profile on other data, or exclude them",
                        self.subject.scope, ", ".join(sorted(idle)))  # fmt: skip
        if len(idle) == len(self.subject.layers):
            raise ProfileError(f"{self.subject.scope}: no adopted layer was executed; is this the model that runs?")
        for fmt in self.formats:
            self._alone(fmt, plain, idle, step)
            self._together(fmt, idle, step)

    def _alone(self, fmt: str, plain: Replay | None, idle: set[str], step: Step) -> None:
        formats = self.entry(fmt)
        for layer in self.subject.layers:
            key = self._key(fmt, ALONE, layer.name)
            if key in self.journal:
                continue
            costs: Costs = {}
            if layer.name not in idle:
                costs = self.measure.costs({layer.name: formats}, replay=plain, layer=layer.name)
            self._put(key, costs, step)

    def _together(self, fmt: str, idle: set[str], step: Step) -> None:
        if all(key in self.journal for key in self.keys(fmt) if key[3] != ALONE):
            return
        formats = self.entry(fmt)
        everywhere = {layer.name: formats for layer in self.subject.layers}
        quantised = Replay(self.subject.model, self.subject.layers) if self.measure.replays else None
        key = self._key(fmt, ALL, "")
        # Run even when its cost is known: the passes that leave one layer out replay what comes before that layer.
        if quantised is not None or key not in self.journal:
            costs = self.measure.costs(everywhere, record=quantised)
            if key not in self.journal:
                self._put(key, costs, step)
        for layer in self.subject.layers:
            key = self._key(fmt, ALL_BUT, layer.name)
            if key in self.journal or len(everywhere) == 1:
                continue
            costs = {}
            if layer.name not in idle:
                others = {name: entry for name, entry in everywhere.items() if name != layer.name}
                costs = self.measure.costs(others, replay=quantised, layer=layer.name)
            self._put(key, costs, step)

    def _put(self, key: Key, costs: Costs, step: Step) -> None:
        broken = sorted(metric for metric, cost in costs.items() if cost == float("inf"))
        if broken:
            log.warning("%s, %s, %s %s: NaN or infinite outputs; %s is written as infinite",
                        self.subject.scope, key[2], key[3], key[4] or "layers", ", ".join(broken))  # fmt: skip
        self.journal.put(key, costs)
        step(f"{self.subject.scope} {key[2]} {key[3]} {key[4]}".rstrip())
