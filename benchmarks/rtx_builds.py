"""What TensorRT-RTX, a real builder, makes of our networks on a machine without a GPU.

    python benchmarks/rtx_builds.py --out benchmarks/results/rtx_builds.json [--gpu sm89] [--work runs/rtx] [--small]

Quickstart's network, the published AutoFormer T, S and B at 224 px in the exported form of relative position ("fused"), in the
two others ("bias", and "naive" as the paper writes it) and without it, and three networks of timm: fp32, fp16 and int8 files of
random weights, which is what a builder sees. Each is built in a process of its own (`autoformer check --build`), and the builder
is asked what it recognised. int8 files need no calibration for that. A row is kept when it is there: a second start goes on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from naive_relative_position import naive_attend
from tensorrt_engines import half, make_network

from autoformer import __version__
from autoformer.architecture import PUBLISHED
from autoformer.errors import AutoformerError
from autoformer.export.engines.target_gpus import read_gpus
from autoformer.export.engines.tensorrt_versions import TENSORRT_RTX
from autoformer.export.engines.trial import TrialProcess
from autoformer.export.graphs.attention_pattern import attentions
from autoformer.export.graphs.graph_view import GraphView
from autoformer.export.graphs.onnx_graph import OnnxGraph, image_shape_of
from autoformer.export.graphs.onnx_reading import read_model
from autoformer.export.graphs.quantization import quantize_for_timing
from autoformer.files import replacing, write_json
from autoformer.networks.subnet import Subnet
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.space import SearchSpace

TIMM = ("deit_small_patch16_224", "convnext_atto", "efficientvit_b0")
FORMS = ("fused", "bias", "naive", "without")
COLUMNS = ("network", "form", "precision", "built", "seconds", "MB", "attention", "one kernel", "LayerNorm", "int8", "kernels")


def cases(small: bool) -> list[tuple[str, str, str]]:
    """Network, form of relative position, precision: all precisions as we export, fp32 and fp16 of the other forms."""
    published = [] if small else list(PUBLISHED)
    found = [(name, "fused", precision) for name in ("quickstart", *published) for precision in ("fp32", "fp16", "int8")]
    found += [(name, form, precision) for name in published for form in FORMS[1:] for precision in ("fp32", "fp16")]
    return found + [(name, "", precision) for name in TIMM for precision in ("fp32", "fp16", "int8")]


def network_of(name: str, form: str) -> Any:
    """With random weights, in evaluation mode."""
    torch.manual_seed(0)
    if name == "quickstart":
        space = SearchSpace.preset("micro", image_size=8, in_chans=1, num_classes=10)
        return Subnet.from_space(space, space.largest).eval()
    if name in TIMM:
        import timm

        return timm.create_model(name, num_classes=10).eval()
    return make_network(name, "fused" if form == "naive" else form)


def graph_of(name: str, form: str, precision: str, work: Path) -> Path:
    """The ONNX file, written where it is not there."""
    path = work / f"{name}.{form or 'timm'}.{precision}.onnx"
    if path.exists():
        return path
    if precision == "int8":
        return quantize_for_timing(OnnxGraph.open(graph_of(name, form, "fp32", work)), path).path
    network = network_of(name, form)
    shape = image_shape_of(network) if name not in TIMM else (3, 224, 224)
    exported = network if precision == "fp32" else half(network) if name not in TIMM else half_of(network)
    if form == "naive":  # by torch alone: our exporter refuses a graph that holds so many constants
        with patch("autoformer.networks.block.attend", naive_attend), replacing(path) as beside:
            torch.onnx.export(
                exported, (torch.zeros(2, *shape),), str(beside), dynamo=True, external_data=False, opset_version=20,
                input_names=["images"], output_names=["logits"], dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False,
            )  # fmt: skip
        return path
    return OnnxGraph.from_network(exported, path, image_shape=shape, as_it_is=precision != "fp32").path


def half_of(network: Any) -> Any:
    """A network of somebody else in half precision."""
    from autoformer.export.networks.half_precision import HalfPrecision

    return HalfPrecision(network)


def row_of(case: tuple[str, str, str], work: Path, attempt: TrialProcess, gpus: tuple[str, ...]) -> dict[str, Any]:
    """One file, built."""
    row: dict[str, Any] = dict(zip(("network", "form", "precision"), case, strict=True))
    try:
        path = graph_of(*case, work)
    except AutoformerError as error:
        return {**row, "refused": f"export: {error}"}
    return {**row, **facts_of(path, attempt, gpus)}


def facts_of(path: Path, attempt: TrialProcess, gpus: tuple[str, ...]) -> dict[str, Any]:
    """What the builder makes of an ONNX file, or why it refuses."""
    blocks = [found.name for view in GraphView.of(read_model(path)).every() for found in attentions(view)]
    found = attempt(path, build=True, gpus=gpus)
    if found.error is not None:
        return {"refused": f"{found.step}: {found.error}", "crashed": found.crashed}
    layers = found.layers(path)
    return {
        "seconds": found.seconds, "plan_bytes": found.plan_bytes, "scratch_bytes": found.scratch_bytes,
        "graph_bytes": path.stat().st_size, "attention_blocks": len(blocks),
        "recognised": sum(name in found.attention_nodes for name in blocks),
        "one_kernel": len(set(layers.attention.yes) & set(blocks)), "layer_norm": str(layers.layer_norm),
        "int8": str(layers.int8),
        "kernels": len(layers.layers), "regions": len(found.words["regions"]),
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for row in rows:
        begin = (row["network"], row["form"] or "–", row["precision"])
        if "refused" in row:
            cells: tuple[Any, ...] = (*begin, row["refused"], *["–"] * (len(COLUMNS) - 4))
        else:
            of = row["attention_blocks"]
            cells = (
                *begin, "yes", f"{row['seconds']:.1f}", f"{row['plan_bytes'] / 1e6:.1f}", f"{row['recognised']} of {of}",
                f"{row['one_kernel']} of {of}", row["layer_norm"], row["int8"], row["kernels"],
            )  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/rtx_builds"), help="folder of the ONNX files")
    parser.add_argument("--gpu", nargs="+", default=["sm89"])
    parser.add_argument("--small", action="store_true", help="without the published networks")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    rows = json.loads(given.out.read_text())["rows"] if given.out.exists() else []
    known = {(row["network"], row["form"], row["precision"]) for row in rows}
    with TrialProcess(TENSORRT_RTX) as attempt:
        record = {"version": __version__, "builder": attempt.title, "gpus": given.gpu, "device": DeviceFacts.collect().to_dict()}
        for case in cases(given.small):
            if case not in known:
                rows.append(row_of(case, given.work, attempt, read_gpus(given.gpu)))
                write_json({**record, "rows": rows}, given.out)
                print(table(rows[-1:]).splitlines()[-1], flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
