"""``twistd vbcast --config node.yaml``: one node of a cluster as a daemon."""

from __future__ import annotations

import atexit
import gc
import os
from pathlib import Path
from typing import Any

from twisted.application import service
from twisted.internet.error import ReactorNotRunning
from twisted.python import usage

from txvbcast.errors import ConfigError, StoreError
from txvbcast.monotonic import use_monotonic_time
from txvbcast.service import Service


class Options(usage.Options):
    """The command line of ``twistd vbcast``."""

    synopsis = "[options]"
    longdesc = (
        "Runs one node of a txvbcast cluster. Write a first configuration with 'vbcast init'. Without -n the node "
        "becomes a daemon, whose process id and log stand beside the configuration, in files that end in .pid and .log."
    )
    optParameters = [["config", "c", None, "The YAML file of this node (required)."]]

    def postOptions(self) -> None:
        """Refuse a command line without ``--config``, and keep several nodes that start in one folder apart.

        :raises twisted.python.usage.UsageError: twistd prints it and exits with status 1.
        """
        if not self["config"]:
            raise usage.UsageError("--config is missing: name the YAML file of this node, as in --config node1.yaml")
        self._keep_apart(self.parent)

    def _keep_apart(self, twistd: Any) -> None:
        # Twisted's defaults are names in the current folder: a second node there would find the first one's pid
        # file and not start, and share its log.
        config = Path(self["config"]).absolute()
        daemon = _is_daemon(twistd)
        if twistd.get("pidfile") == "twistd.pid":
            twistd["pidfile"] = str(config.with_suffix(".pid")) if daemon else ""
        if daemon and twistd["logfile"] is None and not twistd["syslog"]:
            twistd["logfile"] = str(config.with_suffix(".log"))


def _is_daemon(twistd: Any) -> bool:
    """Whether twistd will fork; its younger sister twist (``python -m twisted``) has no such options and does not."""
    return not (twistd.get("nodaemon", True) or twistd.get("debug"))


class Foreground(service.MultiService):
    """Holds the node under ``twistd -n``: what an operator can mend is one line and exit status 1, not a traceback.

    :ivar pid_file: twistd's own, which twistd leaves behind when a process exits while it starts.
    """

    def __init__(self, node: service.IService, pid_file: Path | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.pid_file = pid_file
        node.setServiceParent(self)

    def privilegedStartService(self) -> None:
        """Start what needs the first user's rights.

        :raises SystemExit: for a configuration or data directory that cannot be used.
        """
        try:
            super().privilegedStartService()  # type: ignore[no-untyped-call]
        except (ConfigError, StoreError) as error:
            self._give_up(error)

    def startService(self) -> None:
        """Start the node.

        :raises SystemExit: for a configuration or data directory that cannot be used.
        """
        try:
            super().startService()  # type: ignore[no-untyped-call]
        except (ConfigError, StoreError) as error:
            self._give_up(error)

    def _give_up(self, error: ConfigError | StoreError) -> None:
        if self.pid_file is not None:
            self.pid_file.unlink(missing_ok=True)
        raise SystemExit(f"vbcast: {error}") from None


def makeService(options: Options) -> service.IService:
    """Make the node that ``--config`` describes.

    :raises SystemExit: for a configuration that cannot be used; its text goes to stderr, the status is 1.
    """
    from twisted.internet import reactor  # not at the top: twistd chooses the reactor first

    def stop(error: BaseException) -> None:
        _end_with_failure(reactor)

    use_monotonic_time(reactor)
    try:
        node = Service.from_config(Path(options["config"]), on_halt=stop)
    except (ConfigError, StoreError) as error:
        raise SystemExit(f"vbcast: {error}") from None
    reactor.callWhenRunning(_set_aside)
    twistd: Any = options.parent
    if _is_daemon(twistd):
        # The process that the operator started waits for the daemon's word, which only an exception sends.
        return node
    return Foreground(node, Path(twistd["pidfile"]) if twistd.get("pidfile") else None)


def _set_aside() -> None:
    """Take what is there when the node begins to run, modules for the most part, out of Python's garbage collections.

    A full collection looks at every object. With those it takes some 50 ms, in which a master commits nothing.
    """
    gc.collect()
    gc.freeze()


def _end_with_failure(reactor: Any) -> None:
    """Stop the reactor, also one that is not running yet, and have the process end with status 1.

    The reason is logged by then.
    """
    # twistd has no way of its own to end a run with a status that is not 0. It has flushed its log by that time.
    atexit.register(os._exit, 1)
    reactor.callWhenRunning(_stop, reactor)


def _stop(reactor: Any) -> None:
    try:
        reactor.stop()
    except ReactorNotRunning:
        return  # it is being stopped for another reason
