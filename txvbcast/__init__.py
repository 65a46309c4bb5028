"""Cluster messaging for hosts whose hypervisor sometimes stops them: the public names."""

from txvbcast.errors import Aborted, Committed, ConfigError, NoQuorum, OutcomeUnknown, Overloaded, Unsafe, VbcastError
from txvbcast.interfaces import IChangeAdapter, IObserver, IResourceManager, Refused, Tx
from txvbcast.service import Service
from txvbcast.wire.messages import Mode

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
