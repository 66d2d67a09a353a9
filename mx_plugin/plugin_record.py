"""What is known about one plugin: where it comes from, whether it works, what it registered."""

from __future__ import annotations

import logging
import traceback
from dataclasses import dataclass, field
from typing import Any

log = logging.getLogger("mx_plugin.plugins")

OK, DISABLED, BROKEN, REFUSED = "ok", "disabled", "broken", "refused"


@dataclass
class PluginRecord:
    """One plugin, loaded or not.

    ``status`` is ``ok``; ``disabled`` (by the environment, never imported); ``refused`` (written for
    another interface version); or ``broken`` (``error`` in one line, ``traceback`` in full; what it
    registered by hooks that work stays usable). ``notes`` hold what the user should know although
    the plugin works, such as a name that was already taken.
    """

    name: str
    distribution: str = ""
    version: str = ""
    status: str = OK
    error: str = ""
    traceback: str = ""
    registered: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    plugin: object | None = field(default=None, repr=False)

    def __str__(self) -> str:
        origin = f" of {self.distribution} {self.version}".rstrip() if self.distribution else ""
        return f"plugin {self.name}{origin}"

    def broke(self, where: str, error: BaseException) -> None:
        """Mark as broken: the first fault is kept as the error, each is logged."""
        line = f"{where}: {type(error).__name__}: {str(error).strip()}".rstrip(": ")
        if self.status != BROKEN:
            self.status, self.error, self.traceback = BROKEN, line, "".join(traceback.format_exception(error))
        log.warning("%s is broken, others still work: %s", self, line)

    def refuse(self, why: str) -> None:
        """Mark as refused, with the reason and remedy."""
        self.status, self.error = REFUSED, why
        log.warning("%s is refused: %s", self, why)

    def note(self, text: str) -> None:
        """Keep and log a note; saying it twice does nothing."""
        if text not in self.notes:
            self.notes.append(text)
            log.warning("%s: %s", self, text)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        names = ("name", "distribution", "version", "status", "error", "traceback", "notes")
        plain: dict[str, Any] = {name: getattr(self, name) for name in names}
        plain["registered"] = {kind: list(found) for kind, found in self.registered.items() if found}
        return plain
