"""The version of the wire format, and its bounds."""

from __future__ import annotations

from typing import Final

#: The version in every frame and datagram; :class:`~txvbcast.wire.messages.Hello` names a range of them.
VERSION: Final = 1

#: The longest body of a frame.  The longest message is an Entries or a Propose, whose size its sender bounds to a few
#: MiB; what claims to be longer than this is not read at all.
FRAME_BYTES_MAX: Final = 32 * 1024 * 1024

#: The longest datagram, header and body: it passes an Ethernet of 1500 bytes over IPv6, with room for a tunnel.
DATAGRAM_BYTES_MAX: Final = 1400

#: How much of a decoder's own words goes into an error, since they may quote what the peer sent.
DETAIL_CHARS_MAX: Final = 200
