"""Makes the resource managers that a configuration asks for."""

from __future__ import annotations

from txvbcast.config import PluginConfig
from txvbcast.interfaces import IResourceManager, IResourceManagerFactory
from txvbcast.managers import BUILT_IN
from txvbcast.plugins import make


def load(wanted: PluginConfig) -> IResourceManager:
    """The resource manager for one item of ``resource_managers``.

    :raises ConfigError: there is no such plugin, it refuses its options, or what it makes is no resource manager.
    """
    manager: IResourceManager = make(
        f"resource_managers: {wanted.name}",
        wanted.plugin,
        BUILT_IN,
        IResourceManagerFactory,
        IResourceManager,
        lambda factory: factory.make(wanted.name, wanted.options),
    )
    return manager
