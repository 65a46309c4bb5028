"""Cluster messaging for hosts whose hypervisor sometimes stops them: the public names."""

from typing import TYPE_CHECKING, Any

from txvbcast.errors import Aborted, Committed, ConfigError, NoQuorum, OutcomeUnknown, Overloaded, Unsafe, VbcastError
from txvbcast.interfaces import IChangeAdapter, IObserver, IResourceManager, Refused, Tx
from txvbcast.wire.messages import Mode

if TYPE_CHECKING:
    from txvbcast.service import Service

__version__ = "0.1.0"

__all__ = [
    "Aborted",
    "Committed",
    "ConfigError",
    "IChangeAdapter",
    "IObserver",
    "IResourceManager",
    "Mode",
    "NoQuorum",
    "OutcomeUnknown",
    "Overloaded",
    "Refused",
    "Service",
    "Tx",
    "Unsafe",
    "VbcastError",
]


def __getattr__(name: str) -> Any:
    """``Service``, on first use: it loads the whole node, which the command line and small tools do not need."""
    if name != "Service":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from txvbcast.service import Service

    return Service
