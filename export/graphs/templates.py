"""What torch showed of families of networks: templates in this process, traces on this machine.

torch traces a family once for each kind of block that its networks have. A trace takes seconds, and a probe is always the same;
so its graph lies in the user's cache under the digest of all that it follows from: the probe, the way of export, the versions of
the packages, and the sources that build and export networks. A file that is damaged or of another probe, or that nothing can be
learned from, is traced again, and one that leads to other logits than the network's is taken away: the first network of a family
with a kind of block at an image size is compared with what is written for it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import stat
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from torch import nn

from autoformer.export.graphs.graph_template import GraphTemplate
from autoformer.export.networks.known import BlockKind, KnownNetwork, probe_of
from autoformer.export.networks.sizes import OddGraphError
from autoformer.files import replacing
from autoformer.versions import installed

Graph = tuple[onnx.ModelProto, dict[str, str]]  # with the module of each node by name
SCOPES, PROBE = "autoformer.trace.scopes", "autoformer.trace.probe"  # properties of a kept file
MOST_FILES = 32  # of about 15 MB; those that were not used for the longest time go
ROOMS = ("autoformer.networks", "autoformer.export.networks", "autoformer.export.graphs")  # whose sources decide a graph
PACKAGES = ("torch", "onnx", "onnxscript")
Trace = Callable[[nn.Module], Graph]


@dataclass
class Templates:
    """By family and way of export; None where a graph did not come apart. `kept` holds what was traced before."""

    kept: KeptTraces | None = None
    learned: dict[Hashable, GraphTemplate | None] = field(default_factory=dict)
    written: set[Hashable] = field(default_factory=set)  # family, way, image size and kind of block of graphs that there were

    def knows(self, known: KnownNetwork, way: Hashable) -> bool:
        """Whether graphs of such networks were written before: of their family, kinds of blocks and image size."""
        template = self.learned.get((known.family, way))
        return template is not None and self._parts(known, way) <= self.written and not self._missing(template, known)

    def graph_of(self, known: KnownNetwork, way: Hashable, trace: Trace) -> Graph | None:
        """The graph of a network; `trace` gives that of a probe, exported the same `way`. None where it has to be traced."""
        key = (known.family, way)
        if key in self.learned and self.learned[key] is None:
            return None
        try:
            template = self.learned[key] = self._learn(self.learned.get(key), known, way, trace)
            graph = template.written(known.weights, known.blocks, known.halved_after, known.pixels)
            self.written |= self._parts(known, way)
            return graph
        except OddGraphError:
            self.forget(known, way)
            return None

    def forget(self, known: KnownNetwork, way: Hashable) -> None:
        """From now on, networks of this family are traced one by one, and nothing is kept of what misled."""
        self.learned[(known.family, way)] = None
        if self.kept is not None:
            for kind in known.kinds_to_learn:
                self.kept.forget((known.family, kind, way))

    def _parts(self, known: KnownNetwork, way: Hashable) -> set[Hashable]:
        """What is compared once: every kind of block at every image size."""
        return {(known.family, way, known.pixels, kind.name, known.halved_after > 0) for kind in known.kinds_to_learn}

    def _missing(self, template: GraphTemplate, known: KnownNetwork) -> list[BlockKind]:
        lacking = [kind for kind in known.kinds_to_learn if kind.name not in template.blocks]
        unhalved = known.halved_after and template.halving is None
        return lacking or ([kind for kind in known.kinds_to_learn if kind.halved][:1] if unhalved else [])

    def _learn(self, template: GraphTemplate | None, known: KnownNetwork, way: Hashable, trace: Trace) -> GraphTemplate:
        """The template with all kinds of blocks of a network.

        A probe for each kind that is missing, whatever came before, so that what is kept serves any other network. A halved kind
        comes first, whose probe shows the same before the halving too.
        """
        missing = known.kinds_to_learn if template is None else self._missing(template, known)
        while template is None or missing:
            if not missing:
                raise OddGraphError("the network has no block with anything in it")
            kind = max(missing, key=lambda one: one.halved)
            learned = self._learned(known, kind, way, trace)
            if template is None:
                template = learned
            else:
                template.learn_more(learned)
            if kind in (missing := self._missing(template, known)):
                raise OddGraphError("the probe does not have the kind of block that it was made for")
        return template

    def _learned(self, known: KnownNetwork, kind: BlockKind, way: Hashable, trace: Trace) -> GraphTemplate:
        probe = probe_of(known.family, [kind])
        if self.kept is None:
            return GraphTemplate.learned(*trace(probe.module), probe.weights, probe.blocks)
        what = (known.family, kind, way)
        graph, was_kept = self.kept.graph_of(what, lambda: trace(probe.module))
        try:
            return GraphTemplate.learned(*graph, probe.weights, probe.blocks)
        except OddGraphError:
            self.kept.forget(what)
            if not was_kept:
                raise
        graph, _ = self.kept.graph_of(what, lambda: trace(probe.module))
        return GraphTemplate.learned(*graph, probe.weights, probe.blocks)


@dataclass(frozen=True)
class KeptTraces:
    """The traces in one folder; None: that of this user."""

    folder: Path | None = None

    def path_of(self, probe: Hashable) -> Path | None:
        """Where the graph of the probe that `probe` describes is kept; None for a user without a home."""
        folder = self.folder or _of_user()
        return None if folder is None else folder / f"{_digest(repr(probe))}.onnx"

    def graph_of(self, probe: Hashable, trace: Callable[[], Graph]) -> tuple[Graph, bool]:
        """The graph of the probe that `probe` describes, and whether it was kept; `trace` gives it where it was not."""
        path = self.path_of(probe)
        if path is not None and (kept := _read(path)) is not None:
            return kept, True
        graph = trace()
        self.keep(probe, graph)
        return graph, False

    def keep(self, probe: Hashable, graph: Graph) -> None:
        """Writes a graph; a folder that cannot be written keeps none."""
        if (path := self.path_of(probe)) is None:
            return
        model = onnx.ModelProto()
        model.CopyFrom(graph[0])
        onnx.helper.set_model_props(model, {SCOPES: json.dumps(graph[1]), PROBE: path.stem})
        content = model.SerializeToString()
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as beside:
                beside.write_bytes(hashlib.sha256(content).digest() + content)
        for old in _by_age(path.parent)[:-MOST_FILES]:
            with contextlib.suppress(OSError):
                old.unlink()

    def forget(self, probe: Hashable) -> None:
        """Takes a kept graph away."""
        if (path := self.path_of(probe)) is not None:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _of_user() -> Path | None:
    """The folder of this user's traces; None where there is no home to keep any."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:  # the specification of the variable says to ignore a relative path
        return (given if given.is_absolute() else Path.home() / ".cache") / "autoformer" / "traces"
    except RuntimeError:
        return None


def _by_age(folder: Path) -> list[Path]:
    """The kept files, the longest unused first; what is no file, or goes meanwhile, is none."""
    found = []
    for path in folder.glob("*.onnx"):
        with contextlib.suppress(OSError):
            if stat.S_ISREG((seen := path.stat()).st_mode):
                found.append((seen.st_mtime, path))
    return [path for _, path in sorted(found)]


def _read(path: Path) -> Graph | None:
    """A kept graph; None where there is none, or it is not whole, or of another probe."""
    try:
        held = path.read_bytes()
        if held[:32] != hashlib.sha256(held[32:]).digest():
            return None
        model = onnx.load_model_from_string(held[32:])
        said = {entry.key: entry.value for entry in model.metadata_props}
        if said[PROBE] != path.stem:
            return None
        scopes = json.loads(said[SCOPES])
    except (OSError, ValueError, KeyError, DecodeError):
        return None
    with contextlib.suppress(OSError):  # of somebody else, who says when it was used
        os.utime(path)
    del model.metadata_props[:]
    return model, dict(scopes)


def _digest(probe: str) -> str:
    return hashlib.sha256(f"{_surroundings()}\n{probe}".encode()).hexdigest()[:32]


@cache
def _surroundings() -> str:
    """What else a graph follows from, the same for the whole process."""
    sources = hashlib.sha256()
    for room in map(find_spec, ROOMS):
        for place in (room and room.submodule_search_locations) or ():
            for path in sorted(Path(place).glob("*.py")):
                sources.update(path.read_bytes())
    return repr((platform.machine(), platform.python_version(), installed(*PACKAGES), sources.hexdigest()))
