"""The flame graph: pyinstrument samples the stack of the training thread in profiled steps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ProfilerError

if TYPE_CHECKING:
    from pyinstrument import Profiler

HTML, SPEEDSCOPE = "flame.html", "flame.speedscope.json"

_FONTS = re.compile(r"https://fonts\.googleapis\.com/[^\"']*")
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline' data:; img-src data:; font-src data:"
)
"""The page loads nothing. Pyinstrument's asks a server for fonts, where the reader's own do."""


def need_pyinstrument() -> None:
    """Raises ProfilerError: pyinstrument is not installed."""
    try:
        import pyinstrument  # noqa: F401
    except ImportError as error:
        raise ProfilerError(
            "the profiler's flame graph needs pyinstrument, which is not installed: pip install 'mx-plugin[profile]'; "
            "or leave it out: MXProfilerCallback(flame=False)"
        ) from error


class Flame:
    """Samples between :meth:`start` and :meth:`stop`; several windows become one graph.

    Args:
        interval: seconds between samples.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._running: Profiler | None = None
        self._session: Any = None

    def start(self) -> None:
        """Begin to sample this thread.

        Raises:
            RuntimeError: another pyinstrument samples it.
        """
        from pyinstrument import Profiler

        profiler = Profiler(interval=self._interval, async_mode="disabled")
        profiler.start(target_description="profiled steps")
        self._running = profiler

    def stop(self) -> None:
        """Sample no more. Idempotent."""
        from pyinstrument.session import Session

        if self._running is None:
            return
        profiler, self._running = self._running, None
        session = profiler.stop()
        self._session = session if self._session is None else Session.combine(self._session, session)

    def write(self, folder: Path) -> list[str]:
        """Write both files anew with all that was sampled; their names.

        Raises:
            OSError: they cannot be written.
        """
        from pyinstrument.renderers import HTMLRenderer, SpeedscopeRenderer

        if self._session is None or not self._session.frame_records:
            return []
        page = _FONTS.sub("data:text/css,", HTMLRenderer().render(self._session))
        page = page.replace("<head>", f'<head>\n<meta http-equiv="Content-Security-Policy" content="{_POLICY}">', 1)
        (folder / HTML).write_text(page, encoding="utf-8")
        (folder / SPEEDSCOPE).write_text(SpeedscopeRenderer().render(self._session), encoding="utf-8")
        return [HTML, SPEEDSCOPE]
