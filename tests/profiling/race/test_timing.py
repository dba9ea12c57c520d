"""Networks of any kind timed together, on scripted clocks where every time is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from torch import nn

from autoformer.architecture import Architecture
from autoformer.conditions import MeasurementConditions
from autoformer.cost import count_params
from autoformer.errors import ExportError, MeasurementError
from autoformer.networks.subnet import Subnet
from autoformer.profiling.backends import of_spaces
from autoformer.profiling.backends.of_spaces import INSTANCES
from autoformer.profiling.measuring import drift
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.measuring.measure import device_name, measure
from autoformer.profiling.race.timing import Ready, Timekeeper
from autoformer.profiling.tables.table import ANCHORS, LatencyTable
from autoformer.space import SearchSpace
from tests.support.backends import graph
from tests.support.fakes import ScriptedBackend, ScriptedClock
from tests.support.measurements import FACTS, QUICK
from tests.support.tables import MICRO, fitted

MEANING = MeasurementConditions(
    statistic="p50", batch=2, precision="fp32", backend="torch-cpu", device=device_name(FACTS, "torch-cpu", 1)
)


class Bench:
    """Opens scripted backends, and keeps which were opened; its clock moves only by their runs."""

    def __init__(self) -> None:
        self.clock, self.cpu_clock, self.opened = ScriptedClock(), ScriptedClock(), list[str]()

    def ready(self, name: str, time_ms: float, params: int = 1000) -> Ready:
        def opened() -> ScriptedBackend:
            self.opened.append(name)
            return ScriptedBackend(self.clock, lambda run: time_ms, cpu_clock=self.cpu_clock, label=name)

        return Ready(params=params, open=opened)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    found = Bench()
    monkeypatch.setattr(drift, "measure", partial(measure, clock=found.clock, cpu_clock=found.cpu_clock))
    monkeypatch.setattr(DeviceFacts, "collect", lambda: FACTS)
    return found


def keeper(folder: Path, table: LatencyTable | None = None, meaning: MeasurementConditions = MEANING) -> Timekeeper:
    return Timekeeper(meaning=meaning, config=QUICK, folder=folder, table=table)


@pytest.fixture
def table() -> LatencyTable:
    """Its networks took 1 ms, 2 ms, 3 ms and so on when it was made."""
    return replace(fitted(lambda index, flops: 1.0 + index, count=8), measurement_conditions=MEANING)


def test_every_network_is_timed_in_several_sessions(bench: Bench, tmp_path: Path) -> None:
    found = keeper(tmp_path).together({"a": bench.ready("a", 2.0), "b": bench.ready("b", 3.0)})
    assert {name: one.measured_ms for name, one in found.items()} == pytest.approx({"a": 2.0, "b": 3.0})
    assert found["a"].low_ms == found["a"].high_ms == pytest.approx(2.0)
    assert sorted(bench.opened) == ["a"] * (INSTANCES + 1) + ["b"] * (INSTANCES + 1)  # one of each is not timed
    assert len(found["a"].instances_ms) == INSTANCES


def test_weights_that_are_heavy_together_are_opened_less_often(bench: Bench, tmp_path: Path) -> None:
    """Twice 100 million of 4 bytes are 763 MiB: one session each fits into 1 GiB."""
    keeper(tmp_path).together({name: bench.ready(name, 2.0, params=100_000_000) for name in "ab"})
    assert sorted(bench.opened) == ["a", "b"]


def test_a_first_look_opens_a_network_once_and_takes_a_part_of_the_time(bench: Bench, tmp_path: Path) -> None:
    one = replace(keeper(tmp_path), config=replace(QUICK, min_s=1.0, max_s=2.0))
    assert one.alone(bench.ready("a", 2.0)) == 2.0
    assert bench.opened == ["a"]
    quick = bench.clock.now_ns
    one.together({"a": bench.ready("a", 2.0)})
    assert quick < 0.5 * (bench.clock.now_ns - quick)


def test_networks_of_the_table_run_beside_the_others_and_times_are_in_its_milliseconds(
    bench: Bench, tmp_path: Path, table: LatencyTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine is 10 % slower than when the table was made, so 3.3 ms by the clock are 3 of its ms."""
    then = {network.architecture: network.measured_ms for network in table.networks}

    def of_space(self: Timekeeper, space: SearchSpace, architecture: Architecture) -> Ready:
        return bench.ready(architecture.slug, 1.1 * then[architecture])

    monkeypatch.setattr(Timekeeper, "of_space", of_space)
    own = table.networks[3].architecture
    networks: Mapping[str, Ready] = {"own": bench.ready("own", 1.1 * then[own]), "rival": bench.ready("rival", 3.3)}
    found = keeper(tmp_path, table).together(networks, without=[own])
    assert set(found) == {"own", "rival"}
    assert found["rival"].measured_ms == pytest.approx(3.0)
    assert found["rival"].speed_factor == pytest.approx(1.1)
    assert found["own"].measured_ms == pytest.approx(then[own])
    anchors = set(bench.opened) - {"own", "rival"}
    assert len(anchors) == ANCHORS
    assert own.slug not in anchors


def test_what_was_measured_elsewhere_than_the_limit_says_is_an_error(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="Another CPU"):
        keeper(tmp_path, meaning=replace(MEANING, device="Another CPU, 2 cores, 1 thread")).together({"a": bench.ready("a", 2.0)})


# --- what can be opened ----------------------------------------------------------------------------------------------------


class Mean(nn.Module):
    """The mean of each channel through one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 10)

    def forward(self, images):  # type: ignore[no-untyped-def]
        return self.head(images.mean((2, 3)))


@pytest.mark.parametrize("backend", ["torch-cpu", "onnxruntime-cpu"])
def test_any_network_is_opened_by_the_backend_of_the_limit(tmp_path: Path, backend: str) -> None:
    meaning = replace(MEANING, backend=backend, device=device_name(FACTS, backend, 1))
    ready = keeper(tmp_path, meaning=meaning).of_network("mean", Mean().eval(), (3, 8, 8))
    assert ready.params == 3 * 10 + 10
    assert (tmp_path / "mean.onnx").exists() is (backend == "onnxruntime-cpu")
    for _ in range(2):  # again and again
        with ready.open() as opened:
            assert (opened.name, opened.batch, opened.threads) == (backend, 2, 1)
            opened.run()


def test_a_network_of_the_space_is_exported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []

    def export(network: Subnet, path: Path) -> None:
        written.append(path)
        path.write_bytes(graph([2, 1, 8, 8]))

    monkeypatch.setattr(of_spaces, "_export", export)
    one = keeper(tmp_path, meaning=replace(MEANING, backend="onnxruntime-cpu", device=device_name(FACTS, "onnxruntime-cpu", 1)))
    ready = one.of_space(MICRO, MICRO.smallest)
    assert one.of_space(MICRO, MICRO.smallest).params == ready.params == count_params(MICRO.smallest, MICRO)
    with ready.open() as opened:
        opened.run()
    assert written == list(tmp_path.glob("*.onnx"))
    assert len(written) == 1


def test_a_network_that_cannot_be_exported_is_an_export_error_and_leaves_no_file(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, images):  # type: ignore[no-untyped-def]
            return (
                images.sum().item() * images.mean((2, 3)) if images.sum().item() > 0 else images.mean((2, 3)).new_tensor([[1.0]])
            )

    meaning = replace(MEANING, backend="onnxruntime-cpu", device=device_name(FACTS, "onnxruntime-cpu", 1))
    with pytest.raises(ExportError):
        keeper(tmp_path, meaning=meaning).of_network("odd", Odd().eval(), (3, 8, 8))
    assert not list(tmp_path.iterdir())
