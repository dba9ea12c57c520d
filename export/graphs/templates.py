"""What torch showed of families of networks: templates in this process, traces on this machine.

torch traces a family once, and again for new kinds of blocks. A trace takes seconds, and a probe is always the same; so its graph
lies in the user's cache under the digest of all that it follows from: the probe, the way of export, the versions of the packages,
and the sources that build and export networks. A file that is damaged, or that nothing can be learned from, is traced again.
What is written with its help is compared with the network's logits as ever.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
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
SCOPES = "autoformer.trace.scopes"  # property of a kept file
MOST_FILES = 16  # of about 20 MB; those that were not used for the longest time go
ROOMS = ("autoformer.networks", "autoformer.export.networks", "autoformer.export.graphs")  # whose sources decide a graph
PACKAGES = ("torch", "onnx", "onnxscript")
Trace = Callable[[nn.Module], Graph]


@dataclass
class Templates:
    """By family and way of export; None where a graph did not come apart. `kept` holds what was traced before."""

    kept: KeptTraces | None = None
    learned: dict[Hashable, GraphTemplate | None] = field(default_factory=dict)

    def knows(self, known: KnownNetwork, way: Hashable) -> bool:
        """Whether the graph of a network can be written without a trace."""
        template = self.learned.get((known.family, way))
        return template is not None and not self._missing(template, known)

    def graph_of(self, known: KnownNetwork, way: Hashable, trace: Trace) -> Graph | None:
        """The graph of a network; `trace` gives that of a probe, exported the same `way`. None where it has to be traced."""
        key = (known.family, way)
        template = self.learned.get(key)
        try:
            if key not in self.learned or (template is not None and self._missing(template, known)):
                self.learned[key] = None
                template = self.learned[key] = self._learn(template, known, way, trace)
            return None if template is None else template.written(known.weights, known.blocks, known.halved_after)
        except OddGraphError:
            self.forget(known, way)
            return None

    def forget(self, known: KnownNetwork, way: Hashable) -> None:
        """From now on, networks of this family are traced one by one."""
        self.learned[(known.family, way)] = None

    def _missing(self, template: GraphTemplate, known: KnownNetwork) -> list[BlockKind]:
        lacking = [kind for kind in known.kinds_to_learn if kind.name not in template.blocks]
        unhalved = known.halved_after and template.halving is None
        return lacking or ([kind for kind in known.kinds_to_learn if kind.halved][:1] if unhalved else [])

    def _learn(self, template: GraphTemplate | None, known: KnownNetwork, way: Hashable, trace: Trace) -> GraphTemplate:
        kinds = known.kinds_to_learn if template is None else self._missing(template, known)
        probe = probe_of(known.family, kinds)
        learned = self._learned(probe, (known.family, tuple(kinds), way), trace)
        if template is not None:
            template.learn_more(learned)
        return template or learned

    def _learned(self, probe: KnownNetwork, what: Hashable, trace: Trace) -> GraphTemplate:
        if self.kept is None:
            return GraphTemplate.learned(*trace(probe.module), probe.weights, probe.blocks)
        graph, was_kept = self.kept.graph_of(what, lambda: trace(probe.module))
        try:
            return GraphTemplate.learned(*graph, probe.weights, probe.blocks)
        except OddGraphError:
            self.kept.forget(what)
            if not was_kept:
                raise
        return GraphTemplate.learned(*trace(probe.module), probe.weights, probe.blocks)


@dataclass(frozen=True)
class KeptTraces:
    """The traces in one folder; None: that of this user."""

    folder: Path | None = None

    def path_of(self, probe: Hashable) -> Path:
        """Where the graph of the probe that `probe` describes is kept."""
        folder = self.folder or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "autoformer" / "traces"
        return folder / f"{_digest(repr(probe))}.onnx"

    def graph_of(self, probe: Hashable, trace: Callable[[], Graph]) -> tuple[Graph, bool]:
        """The graph of the probe that `probe` describes, and whether it was kept; `trace` gives it where it was not."""
        if (kept := _read(self.path_of(probe))) is not None:
            return kept, True
        graph = trace()
        self.keep(probe, graph)
        return graph, False

    def keep(self, probe: Hashable, graph: Graph) -> None:
        """Writes a graph; a folder that cannot be written keeps none."""
        path = self.path_of(probe)
        model = onnx.ModelProto()
        model.CopyFrom(graph[0])
        onnx.helper.set_model_props(model, {SCOPES: json.dumps(graph[1])})
        content = model.SerializeToString()
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as beside:
                beside.write_bytes(hashlib.sha256(content).digest() + content)
            files = sorted(path.parent.glob("*.onnx"), key=lambda file: file.stat().st_mtime)
            for old in files[:-MOST_FILES]:
                old.unlink(missing_ok=True)

    def forget(self, probe: Hashable) -> None:
        """Takes a kept graph away."""
        with contextlib.suppress(OSError):
            self.path_of(probe).unlink(missing_ok=True)


def _read(path: Path) -> Graph | None:
    """A kept graph; None where there is none, or it is not whole."""
    try:
        held = path.read_bytes()
        if held[:32] != hashlib.sha256(held[32:]).digest():
            return None
        os.utime(path)
        model = onnx.load_model_from_string(held[32:])
        (scopes,) = (json.loads(entry.value) for entry in model.metadata_props if entry.key == SCOPES)
    except (OSError, ValueError, DecodeError):
        return None
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
