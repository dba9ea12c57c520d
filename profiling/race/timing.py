"""`Timekeeper`: times networks of any kind together, under the measurement conditions of the limit.

Where the limit comes from a latency table, a few of its networks run in the same rounds, and all times are in its milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import nn

from autoformer.architecture import Architecture
from autoformer.conditions import MeasurementConditions
from autoformer.cost import count_params
from autoformer.export.graphs.onnx_graph import OnnxGraph
from autoformer.profiling.backends.of_spaces import Setup, export_for, open_graph, open_in_torch, open_network, opened_in_turn
from autoformer.profiling.measuring.backend import LatencyBackend
from autoformer.profiling.measuring.measure import MeasureConfig, threads_of
from autoformer.profiling.tables.limit import Timing
from autoformer.profiling.tables.speed_factor import anchors_of
from autoformer.profiling.tables.table import LatencyTable
from autoformer.profiling.tables.timed import timed
from autoformer.progress import Progress, silent
from autoformer.space import SearchSpace

QUICK = 0.3  # of the measuring time, for a first look at one network alone


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A network that can be opened again and again."""

    params: int
    open: Callable[[], LatencyBackend]


@dataclass(frozen=True, kw_only=True)
class Timekeeper:
    """What is measured, how long, and where exported graphs are kept."""

    meaning: MeasurementConditions  # of this machine
    config: MeasureConfig
    folder: Path
    table: LatencyTable | None = None
    progress: Progress = silent

    @property
    def setup(self) -> Setup:
        """The backend with its threads and images in a call."""
        return Setup(backend=self.meaning.backend, batch=self.meaning.batch, threads=threads_of(self.meaning))

    def of_space(self, space: SearchSpace, architecture: Architecture) -> Ready:
        """A network of a search space, exported; weights, which do not change its time, are fresh."""
        export_for(space, architecture, self.meaning.backend, self.folder)
        return Ready(
            params=count_params(architecture, space),
            open=partial(open_network, space, architecture, self.setup, self.folder),
        )

    def of_network(self, name: str, network: nn.Module, image_shape: tuple[int, int, int]) -> Ready:
        """Any other network; `name` is that of its file. Raises `ExportError` when it cannot be exported."""
        params = sum(weight.numel() for weight in network.parameters())
        if self.meaning.backend.startswith("torch-"):
            return Ready(params=params, open=partial(open_in_torch, network, image_shape, self.setup))
        path = self.folder / f"{name}.onnx"
        if not path.exists():
            OnnxGraph.from_network(network, path, image_shape=image_shape)
        return Ready(params=params, open=partial(open_graph, path, self.setup))

    def alone(self, ready: Ready) -> float:
        """About how many milliseconds one network takes: a first look, by one session."""
        quick = replace(self.config, min_s=QUICK * self.config.min_s, max_s=QUICK * self.config.max_s)
        with opened_in_turn({"network": ready.open}, ready.params, instances=1) as opened:
            return timed(opened, quick, meaning=self.meaning)["network"].measured_ms

    def together(self, networks: Mapping[str, Ready], without: Sequence[Architecture] = ()) -> dict[str, Timing]:
        """Every network in common rounds. `without` are those of the space among them, which cannot be anchors as well."""
        anchors: list[Architecture] = []
        openers: dict[str | Architecture, Callable[[], LatencyBackend]] = {name: one.open for name, one in networks.items()}
        params = sum(one.params for one in networks.values())
        if self.table is not None:
            times = sorted(self.table.predict(one) for one in without) or [self.table.networks[0].measured_ms]
            anchors = anchors_of(self.table, times[len(times) // 2], without=without)
            for anchor in anchors:
                ready = self.of_space(self.table.space, anchor)
                openers[anchor], params = ready.open, params + ready.params
        with opened_in_turn(openers, params) as opened:
            found = timed(opened, self.config, meaning=self.meaning, table=self.table, anchors=anchors, progress=self.progress)
        return {name: found[name] for name in networks}
