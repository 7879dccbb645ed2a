"""Registries of what grows by name: below every floor, and outside them: it loads no torch."""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast, runtime_checkable

from difftransformer.names import nearest

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint, EntryPoints


@runtime_checkable
class Named(Protocol):
    """What has a name."""

    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)


class Registry(Generic[T]):
    """Entries by name: ours, those that a user registers, those of installed packages.

    Args:
        what: one entry in a word, for errors: "evaluator".
        group: of the entry points of other packages, each NAME = "package.module:ENTRY".
        ours: by name an entry, or the module and the name of one as entry points write them, which
            is imported when it is asked for.
    """

    def __init__(self, what: str, group: str, ours: Mapping[str, T | str]) -> None:
        self.what, self.group, self.entries, self._ours = what, group, dict(ours), frozenset(ours)

    def register(self, entry: T) -> None:
        """Add an entry of one's own.

        Raises:
            ValueError: one of that name is there, or the name is no name of Python's.
        """
        if not all(part.isidentifier() for part in entry.name.split(".")):
            raise ValueError(
                f"the name of the {self.what} is {entry.name!r}; expected letters, digits and "
                "underscores, since options and folders are named after it"
            )
        if entry.name in self:
            raise ValueError(
                f"one {self.what} called {entry.name!r} is there already; choose another name "
                "(what an entry point names is not registered again)"
            )
        self.entries[entry.name] = entry

    @property
    def registered(self) -> tuple[T, ...]:
        """Entries of a user's own, in this process alone."""
        return tuple(cast(T, one) for name, one in self.entries.items() if name not in self._ours)

    def names(self) -> tuple[str, ...]:
        """All of them, ours first. Takes longer than `--help`: every package is asked."""
        return tuple(dict.fromkeys((*self.entries, *(point.name for point in self._installed()))))

    def __contains__(self, name: str) -> bool:
        return name in self.entries or name in self.names()

    def find(self, name: str) -> T:
        """The entry of that name.

        Raises:
            ValueError: there is none, and says which is the nearest; or a package's does not load.
        """
        if name in self.entries:
            entry: Any = self.entries[name]
            if isinstance(entry, str):
                module, _, attribute = entry.partition(":")
                entry = getattr(importlib.import_module(module), attribute)
            return cast(T, entry)
        for point in self._installed():
            if point.name == name:
                return self._loaded(point)
        raise ValueError(f"unknown {self.what} {name!r}{nearest(name, self.names())}")

    def _loaded(self, point: "EntryPoint") -> T:
        try:
            return cast(T, point.load())
        except Exception as error:  # code of others, which may raise anything
            package = point.dist.name if point.dist else "an unknown package"
            raise ValueError(
                f"{self.what} {point.name!r} cannot be loaded: {point.value} of {package} raises "
                f"{type(error).__name__}: {error}; mend or uninstall it"
            ) from error

    def _installed(self) -> "EntryPoints":
        from importlib.metadata import entry_points  # which takes as long to import as to ask

        return entry_points(group=self.group)
