"""Adapters: how a node learns from the virtualization layer what is about to happen to it.

One module an adapter.  Each is imported only when a configuration asks for it, so that none needs
what the others need.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

import attrs
from zope.interface import implementer

from txvbcast.interfaces import IChangeAdapter, IChangeAdapterFactory, Surroundings


@implementer(IChangeAdapterFactory)
@attrs.frozen
class BuiltIn:
    """An adapter that comes with txvbcast: the module of its name has a ``make`` of the factory's form."""

    plugin: str

    def make(self, options: Mapping[str, object], surroundings: Surroundings) -> IChangeAdapter:
        """Import the adapter's module, and make one.

        :raises ValueError: the options, or the machine, are not fit for it.
        """
        try:
            module = import_module(f"txvbcast.virt.{self.plugin}")
        except ImportError as error:
            page = f"docs/adapters/{self.plugin}.md"
            raise ValueError(f"it needs a library that is not installed: {error}, see {page}") from error
        adapter: IChangeAdapter = module.make(options, surroundings)
        return adapter


#: Factories that need no plugin.
BUILT_IN: dict[str, IChangeAdapterFactory] = {
    name: BuiltIn(name)
    for name in (
        "qmp", "libvirt", "azure", "gce", "aws", "vmware", "logind", "cgroup", "command", "pause",
    )
}  # fmt: skip
