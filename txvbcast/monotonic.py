"""Makes a Twisted reactor run on the monotonic clock."""

from __future__ import annotations

import time
from typing import Any

from twisted.internet.interfaces import IReactorTime


def use_monotonic_time(reactor: IReactorTime) -> None:
    """Let ``reactor`` measure its delays by CLOCK_MONOTONIC instead of the wall clock.

    Twisted's reactors run on the wall clock, so a step of that clock (an operator, NTP, a resumed
    virtual machine) would fire every timer at once, or none for hours, and members would accuse each
    other of a silence that never was.  Call this before the first timer is set: one set earlier would
    carry a time of the other clock.  A second call does nothing.

    :raises RuntimeError: when timers are waiting already.
    """
    if reactor.seconds is time.monotonic:
        return
    if reactor.getDelayedCalls():
        raise RuntimeError("use_monotonic_time must be called before the first timer is set")
    # Every reactor of Twisted asks its own ``seconds`` for the time, so an attribute of the instance is enough.
    clock: Any = reactor
    clock.seconds = time.monotonic
