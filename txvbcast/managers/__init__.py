"""The resource managers that come with txvbcast, by the name that a configuration gives."""

from __future__ import annotations

from txvbcast.interfaces import IResourceManagerFactory
from txvbcast.managers.kv import KeyValueFactory

#: Factories that need no plugin.
BUILT_IN: dict[str, IResourceManagerFactory] = {KeyValueFactory.plugin: KeyValueFactory()}
