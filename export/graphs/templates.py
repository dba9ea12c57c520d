"""The templates that this process has learned: torch traces a family of networks once, and again for new kinds of blocks."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import onnx
from torch import nn

from autoformer.export.graphs.graph_template import GraphTemplate
from autoformer.export.networks.known import BlockKind, KnownNetwork, probe_of
from autoformer.export.networks.sizes import OddGraphError

Graph = tuple[onnx.ModelProto, dict[str, str]]  # with the module of each node by name
Trace = Callable[[nn.Module], Graph]


@dataclass
class Templates:
    """By family and way of export; None where a graph did not come apart."""

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
                template = self.learned[key] = self._learn(template, known, trace)
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

    def _learn(self, template: GraphTemplate | None, known: KnownNetwork, trace: Trace) -> GraphTemplate:
        probe = probe_of(known.family, known.kinds_to_learn if template is None else self._missing(template, known))
        learned = GraphTemplate.learned(*trace(probe.module), probe.weights, probe.blocks)
        if template is not None:
            template.learn_more(learned)
        return template or learned
