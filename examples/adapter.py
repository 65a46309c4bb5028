"""An adapter of one's own: a file NAME.maintenance in a folder announces this node's absence; NAME.go answers it."""

from pathlib import Path
from typing import Any

from twisted.internet.task import LoopingCall
from twisted.plugin import IPlugin
from zope.interface import implementer, provider

from txvbcast.interfaces import Go, IChangeAdapter, IChangeAdapterFactory, IChangeSink, Surroundings


@provider(IPlugin, IChangeAdapterFactory)  # the class is what Twisted finds, and makes its instances
@implementer(IChangeAdapter)
class Markers:
    plugin, kinds = "markers", ("custom",)

    @classmethod
    def make(cls, options: dict[str, Any], surroundings: Surroundings) -> "Markers":
        return cls(Path(options.get("folder", "/run/maintenance")), surroundings.reactor)

    def __init__(self, folder: Path, reactor: Any) -> None:
        self.folder, self.known, self.looks = folder, set[Path](), LoopingCall(self.look)
        self.looks.clock = reactor

    def start(self, sink: IChangeSink) -> None:
        self.sink = sink
        self.looks.start(1.0)

    def stop(self) -> None:
        self.looks.stop()

    def look(self) -> None:
        try:
            markers = {path for path in self.folder.iterdir() if path.suffix == ".maintenance"}
        except OSError as error:
            self.sink.lost(f"{self.folder} cannot be read: {error.strerror}")
            return
        self.sink.connected(str(self.folder))
        began, ended, self.known = markers - self.known, self.known - markers, markers
        for path in began:
            self.sink.begin("custom", {"expected_s": 60.0}, path.name, holdable=True).addCallback(self.let_go, path)
        for path in ended:
            path.with_suffix(".go").unlink(missing_ok=True)
            self.sink.end(path.name, "done")

    def let_go(self, go: Go, path: Path) -> None:  # whoever has made the marker waits for this file
        if path in self.known:
            path.with_suffix(".go").write_text("confirmed\n" if go.confirmed else f"not confirmed: {go.unsafe}\n")
