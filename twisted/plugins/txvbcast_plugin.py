"""Tells twistd of ``vbcast``. Imports nothing of txvbcast: a broken module would hide the command without a word."""

from twisted.application.service import ServiceMaker

vbcast = ServiceMaker("txvbcast", "txvbcast.tap", "A node of a txvbcast cluster.", "vbcast")
