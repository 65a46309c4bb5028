"""The resource managers that come with txvbcast, by the name that a configuration gives."""

from __future__ import annotations

from txvbcast.interfaces import IResourceManagerFactory
from txvbcast.managers.kv import KeyValueFactory

_FACTORIES: dict[str, IResourceManagerFactory] = {KeyValueFactory.plugin: KeyValueFactory()}

#: Names that need no plugin.
BUILT_IN_NAMES = tuple(_FACTORIES)


def built_in(name: str) -> IResourceManagerFactory | None:
    """The factory of the manager that is called ``name`` and comes with txvbcast, or None."""
    return _FACTORIES.get(name)
