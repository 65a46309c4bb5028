"""Clients of a cluster, over its client port: ``connect`` for programs with Twisted, ``blocking`` for others.

Importing this installs no reactor.
"""

from txvbcast.client.answers import KeyValue, Outcomes
from txvbcast.client.effects import Event
from txvbcast.client.failures import BadRequest, Unreachable
from txvbcast.client.shell import Client, connect

__all__ = ["BadRequest", "Client", "Event", "KeyValue", "Outcomes", "Unreachable", "connect"]
