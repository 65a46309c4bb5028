"""Makes the resource managers that a configuration asks for: a built-in one, else a Twisted plugin."""

from __future__ import annotations

from twisted.plugin import getPlugins
from zope.interface.exceptions import Invalid
from zope.interface.verify import verifyObject

from txvbcast.config import PluginConfig
from txvbcast.errors import ConfigError
from txvbcast.interfaces import IResourceManager, IResourceManagerFactory
from txvbcast.managers import BUILT_IN_NAMES, built_in


def load(wanted: PluginConfig) -> IResourceManager:
    """The resource manager for one item of ``resource_managers``.

    A plugin module that cannot be imported is logged by Twisted and counts as not there.

    :raises ConfigError: there is no such plugin (the text names those that there are), it
        refuses its options, or what it makes is no resource manager.
    """
    factory = built_in(wanted.plugin) or _from_plugins(wanted)
    try:
        manager = factory.make(wanted.name, wanted.options)
    except ValueError as error:
        raise ConfigError(f"resource_managers: {wanted.name}: options of plugin {wanted.plugin!r}: {error}") from error
    try:
        verifyObject(IResourceManager, manager)
    except Invalid as error:
        raise ConfigError(
            f"resource_managers: {wanted.name}: plugin {wanted.plugin!r} does not make a resource manager: {error}"
        ) from error
    return manager


def _from_plugins(wanted: PluginConfig) -> IResourceManagerFactory:
    found = {factory.plugin: factory for factory in getPlugins(IResourceManagerFactory)}
    if wanted.plugin not in found:
        names = ", ".join(sorted({*BUILT_IN_NAMES, *found}))
        raise ConfigError(
            f"resource_managers: {wanted.name}: there is no plugin {wanted.plugin!r}; "
            f"expected one of: {names} (a plugin is a module in twisted/plugins that offers an IResourceManagerFactory)"
        )
    return found[wanted.plugin]
