"""Run a function on a module right after it was first imported, before whoever imported it reads its names.

Nothing is imported early for it: OpenRLHF sets environment variables that Ray, DeepSpeed and vLLM read when they are
imported, so a patcher that imported what it patches would change the run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Patch = Callable[[ModuleType], None]


class ImportPatcher(MetaPathFinder):
    """A finder that finds nothing itself: it lets the others find, and patches what they loaded.

    Args:
        patches: module name -> function that is called once with the module. What it raises is raised by the
            import statement. A module that was imported before is patched by :meth:`install`.
    """

    def __init__(self, patches: Mapping[str, Patch]) -> None:
        self._patches = dict(patches)
        self.applied: list[str] = []
        """Names of the modules that were patched, in that order."""

    @property
    def pending(self) -> list[str]:
        """Names of the modules that nobody has imported yet."""
        return [name for name in self._patches if name not in self.applied]

    def install(self) -> ImportPatcher:
        """Stand before every other finder; idempotent."""
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)
        for name in self.pending:
            if name in sys.modules:
                self._apply(sys.modules[name])
        return self

    def uninstall(self) -> None:
        """Patch no further module; what was patched stays so. Idempotent."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The other finders' spec, with a loader that patches afterwards; None for modules without a patch."""
        if fullname not in self.pending:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec = find(fullname, path, target) if find is not None and finder is not self else None
            if spec is not None and spec.loader is not None:
                spec.loader = _PatchingLoader(spec.loader, self._apply)
                return spec  # type: ignore[no-any-return]
        return None

    def _apply(self, module: ModuleType) -> None:
        name = module.__name__
        if name not in self.applied:
            self.applied.append(name)
            self._patches[name](module)


class _PatchingLoader(Loader):
    """Another loader, and a patch after it."""

    def __init__(self, loader: Any, apply: Patch) -> None:
        self._loader = loader
        self._apply = apply

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._apply(module)

    def __getattr__(self, name: str) -> Any:
        # inspect, runpy and importlib.resources ask loaders for more than loading.
        return getattr(self._loader, name)
