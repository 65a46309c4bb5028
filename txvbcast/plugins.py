"""Finds what a configuration asks for by name: something built in, else a Twisted plugin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.plugin import getPlugins
from zope.interface.exceptions import Invalid
from zope.interface.verify import verifyObject

from txvbcast.errors import ConfigError


def make(
    where: str,
    plugin: str,
    built_in: Mapping[str, Any],
    factory_interface: Any,
    product_interface: Any,
    call: Callable[[Any], Any],
) -> Any:
    """What the factory called ``plugin`` makes.

    A plugin module that cannot be imported is logged by Twisted and counts as not there.

    :param where: the place in the configuration, for errors.
    :param built_in: the factories that need no plugin, by name.
    :param call: has the factory that was found make it.
    :raises ConfigError: there is no such plugin (the text names those that there are), it
        refuses its options, or what it makes does not provide ``product_interface``.
    """
    factory = built_in.get(plugin) or _from_plugins(where, plugin, built_in, factory_interface)
    try:
        product = call(factory)
    except ValueError as error:
        raise ConfigError(f"{where}: options of plugin {plugin!r}: {error}") from error
    try:
        verifyObject(product_interface, product)
    except Invalid as error:
        raise ConfigError(
            f"{where}: plugin {plugin!r} does not make an {product_interface.getName()}: {error}"
        ) from error
    return product


def _from_plugins(where: str, plugin: str, built_in: Mapping[str, Any], factory_interface: Any) -> Any:
    found = {factory.plugin: factory for factory in getPlugins(factory_interface)}
    if plugin not in found:
        names = ", ".join(sorted({*built_in, *found}))
        raise ConfigError(
            f"{where}: there is no plugin {plugin!r}; expected one of: {names} "
            f"(a plugin is a module in twisted/plugins that offers an {factory_interface.getName()})"
        )
    return found[plugin]
