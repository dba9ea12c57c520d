"""`write_kit`: the networks of a designed table as graphs that a device measures by itself.

Finished graphs stay in a folder beside the kit until it is complete, so an interrupted kit goes on where it stopped.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from autoformer import __version__
from autoformer.architecture import Architecture
from autoformer.errors import MeasurementError
from autoformer.escaping import markdown
from autoformer.export.manifest import sha256_of
from autoformer.files import claim_folder, refuse_existing, replacing, sole_worker, write_folder
from autoformer.profiling.backends.of_spaces import fresh_network
from autoformer.profiling.kits.kit import PRECISIONS, Kit, KitNetwork, StoppingRule
from autoformer.profiling.measuring.order_statistics import FLOORS
from autoformer.profiling.tables.design import designed_architectures
from autoformer.progress import Progress
from autoformer.space import SearchSpace
from autoformer.temporary import temporary_folder
from autoformer.versions import installed

if TYPE_CHECKING:
    import onnx
    from torch import nn

NETWORKS = "networks"  # folder of the graphs
OPSET = 17  # the newest that TensorRT 8.6 reads, and newer ones as well
REBUILT, BUILDS = 3, 2  # networks that are built more than once, and how often
PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True, kw_only=True)
class KitConfig:
    """What a kit measures, and when it stops. Raises `MeasurementError` for what no kit can be made of."""

    networks: int = 30
    precisions: tuple[str, ...] = ("fp32", "fp16")
    batches: tuple[int, ...] = (1,)
    statistic: str = "p50"  # that the table is wanted of
    opset: int = OPSET
    rule: StoppingRule = field(default_factory=StoppingRule)
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "precisions", tuple(dict.fromkeys(self.precisions)))
        if unknown := [name for name in self.precisions if name not in PRECISIONS]:
            raise MeasurementError(f"no kit in precision {unknown[0]!r}; known are {', '.join(PRECISIONS)}")
        if self.statistic not in ("p50", "p90", "p99"):
            raise MeasurementError(f"no kit for statistic {self.statistic!r}; known are p50, p90, p99")
        if not self.precisions or not self.batches or min(self.batches) < 1:
            raise MeasurementError("a kit needs at least one precision and one batch of one image or more")

    @property
    def long_enough(self) -> StoppingRule:
        """The rule, its visits made so long that all rounds together carry the statistic."""
        least = -(-FLOORS.get(self.statistic, 1) // self.rule.max_rounds)
        return replace(self.rule, min_runs=max(self.rule.min_runs, least))


def write_kit(space: SearchSpace, out: Path, config: KitConfig, *, program: bytes, progress: Progress | None = None) -> Kit:
    """Writes the folder `out`, whole or not at all; `program` is the board program. Networks have fresh weights.

    Raises `MeasurementError` for an opset that is not written, or as `designed_architectures` does, `OutputExistsError` where
    `out` holds something, and `ExportError` as the export does.
    """
    from autoformer.export.graphs.onnx_graph import OPSETS

    wanted, count = config.precisions, config.networks
    if config.opset not in OPSETS:
        raise MeasurementError(f"no kit in opset {config.opset}; known are {OPSETS[0]} to {OPSETS[-1]}")
    refuse_existing(out)
    architectures = designed_architectures(space, count, config.seed)
    work = out.with_name(f"{out.name}.work")
    asked = {"space": space.to_dict(), "precisions": wanted, "count": count, "seed": config.seed, "opset": config.opset}
    work.mkdir(parents=True, exist_ok=True)
    claim_folder(work, {"format": "autoformer/kit-work/1", **asked})
    with sole_worker(work):
        graphs: dict[str, Path] = {}
        for index, architecture in enumerate(architectures):
            if progress:
                progress("export networks", index, count)
            graphs |= _exported(space, architecture, config, work)
        if progress:
            progress("export networks", count, count)
        with write_folder(out) as folder:
            from autoformer.export.graphs.shared_weights import write_graphs

            (folder / NETWORKS).mkdir()
            write_graphs(graphs, work, folder / NETWORKS)
            (folder / "board.pyz").write_bytes(program)
            rebuilt = {round(place * (count - 1) / (REBUILT - 1)) for place in range(REBUILT)}
            networks = tuple(
                KitNetwork(
                    name=architecture.slug,
                    architecture=architecture,
                    input_shape=(space.in_chans, space.image_size_of(architecture), space.image_size_of(architecture)),
                    files={precision: f"{NETWORKS}/{_file_name(architecture, precision)}" for precision in wanted},
                    builds=BUILDS if index in rebuilt else 1,
                )
                for index, architecture in enumerate(architectures)
            )
            (folder / "README.md").write_text(_readme(space, config, networks), encoding="utf-8")
            kit = Kit(
                space=space.to_dict(),
                networks=networks,
                statistic=config.statistic,
                precisions=wanted,
                batches=config.batches,
                opset=config.opset,
                seed=config.seed,
                rule=config.long_enough,
                files={
                    path.relative_to(folder).as_posix(): sha256_of(path)
                    for path in sorted(path for path in folder.rglob("*") if path.is_file())
                },
                made={"autoformer": __version__, **installed(*PACKAGES)},
            )
            kit.save(folder)
        shutil.rmtree(work)
    return kit


def _file_name(architecture: Architecture, precision: str) -> str:
    return f"{architecture.slug}.{precision}.onnx"


def _exported(space: SearchSpace, architecture: Architecture, config: KitConfig, work: Path) -> dict[str, Path]:
    """The graphs of one network without their weights, by file name; those that are in `work` are used again."""
    found = {precision: work / _file_name(architecture, precision) for precision in config.precisions}
    missing = [precision for precision, path in found.items() if not path.exists()]
    if not missing:
        return {path.name: path for path in found.values()}
    from autoformer.export.graphs.shared_weights import give_up_weights

    network = fresh_network(space, architecture)
    for precision in missing:
        model = _graph_of(network, precision, config.opset)
        give_up_weights(model, work)
        with replacing(found[precision]) as beside:
            beside.write_bytes(model.SerializeToString())
    return {path.name: path for path in found.values()}


def _graph_of(network: nn.Module, precision: str, opset: int) -> onnx.ModelProto:
    """A graph with weights of its own, in memory."""
    import onnx

    from autoformer.export.graphs.onnx_graph import OnnxGraph, Way, image_shape_of
    from autoformer.export.networks.half_precision import HalfPrecision

    if precision == "int8":
        from autoformer.export.graphs.quantization import quantize_for_timing

        with temporary_folder("kit") as folder:
            exact = OnnxGraph.from_network(network, folder / "fp32.onnx", opset=opset)
            quantize_for_timing(exact, folder / "int8.onnx")
            return onnx.load(folder / "int8.onnx")
    half = precision == "fp16"
    way = Way(opset=opset, image_shape=image_shape_of(network), as_it_is=half)
    model, _ = way.graph_of(HalfPrecision(network) if half else network)
    onnx.helper.set_model_props(model, {"autoformer.precision": precision})
    return model


def _readme(space: SearchSpace, config: KitConfig, networks: Sequence[KitNetwork]) -> str:
    rule = config.long_enough
    minutes = sum(network.builds for network in networks) * rule.seconds / 60
    return f"""# {len(networks)} networks of the space {markdown(space.name)} to measure on a device

    python3 board.pyz measure

measures them and writes `result.json`, which goes back to the machine with the toolchain:

    autoformer profile table --from result.json --out device.json

The device needs Python 3.10 or newer and one of: TensorRT with its Python bindings; the program `trtexec`, which comes with
TensorRT (nothing else is needed then); numpy and onnxruntime. `python3 board.pyz measure --help` lists what can be chosen.

Precisions: {", ".join(config.precisions)}; images in a call: {", ".join(map(str, config.batches))}. All networks are visited in
rounds, in one order and then in the other, {rule.min_rounds} rounds at least and {rule.max_rounds} at most, until the median
of each is known within {100 * rule.max_interval:g} % (the width of its 95 % interval). A visit measures for {rule.seconds:g} s
or more after a warm-up, so a round takes at least {minutes:.1f} minutes for each precision and batch.
Each finished visit is on disk at once: after a crash, a reset or Ctrl-C the same command goes on where it was.

Fix the device's clocks and power mode before, leave it alone meanwhile, and use it in that mode afterwards: a table is right
about the state it was measured in. The weights are random: latency does not depend on them.
"""
