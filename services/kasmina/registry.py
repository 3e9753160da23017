"""Registries: what is known by name, plug-ins of other packages included.

A package adds a name with an entry point; for a blueprint, say, in its pyproject.toml:

    [project.entry-points."leyline.blueprints"]
    my-seed = "my_package.seeds:my_seed"

Entry points are looked for when a name is asked for that is neither built in nor registered, or
when all names are; the code behind one is imported when that very name is asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

Item = TypeVar("Item")


class PlugInBroken(ValueError):
    """A package offers something by a name, and it cannot be had."""

    def __init__(self, plug_in: EntryPoint, why: str) -> None:
        super().__init__(
            f"{plug_in.name!r} of the entry points {plug_in.group!r} cannot be used: {why};"
            f" it comes from {_origin(plug_in)}: mend that package, or remove it"
        )
        self.plug_in = plug_in


class Registry(Generic[Item]):
    """Items of one kind by name."""

    def __init__(
        self,
        kind: str,
        group: str,
        built_in: Mapping[str, Item],
        unknown: Callable[[str, Sequence[str]], Exception],
    ) -> None:
        """`unknown` makes the error for a name that there is not, from it and the sorted names.

        `kind` names an item in messages ("host"), `group` is that of the entry points.
        """
        self._kind = kind
        self._group = group
        self._items = dict(built_in)
        self._unknown = unknown

    def names(self) -> tuple[str, ...]:
        """Every name, sorted. No plug-in is imported."""
        return tuple(sorted({*self._items, *self._plug_ins}))

    def get(self, name: str) -> Item:
        """The item of that name.

        Raises what `unknown` makes where there is none, and `PlugInBroken` where a package offers
        it in vain. A name that is built in stays what it is, whatever packages offer.
        """
        if name not in self._items:
            self._items[name] = self._load(name)
        return self._items[name]

    def register(self, name: str, item: Item) -> None:
        """Makes an item known. A name is given once: ValueError where it is taken."""
        if name in self._items or name in self._plug_ins:
            raise ValueError(f"a {self._kind} named {name!r} is registered already")
        self._items[name] = item

    @functools.cached_property
    def _plug_ins(self) -> dict[str, list[EntryPoint]]:
        found: dict[str, list[EntryPoint]] = {}
        for plug_in in entry_points(group=self._group):
            found.setdefault(plug_in.name, []).append(plug_in)
        return found

    def _load(self, name: str) -> Item:
        offers = self._plug_ins.get(name)
        if offers is None:
            raise self._unknown(name, self.names())
        if len(offers) > 1:
            others = ", ".join(_origin(offer) for offer in offers[1:])
            raise PlugInBroken(offers[0], f"the name is also taken by {others}")
        try:
            item: Item = offers[0].load()
        except Exception as error:  # whatever the package's code may raise
            raise PlugInBroken(offers[0], f"{type(error).__name__}: {error}") from error
        if not callable(item):
            raise PlugInBroken(offers[0], f"{offers[0].value} is not callable")
        return item


def _origin(plug_in: EntryPoint) -> str:
    if plug_in.dist is None:
        return "an unknown distribution"
    return f"the distribution {plug_in.dist.name} {plug_in.dist.version}"
