"""What a single file, a recipe, a folder of images or one of timm's networks is, and which command is for it."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from autoformer.errors import ArchitectureError, short
from autoformer.files import read_json

if TYPE_CHECKING:
    from onnx import ValueInfoProto

# The files that a folder is described by, under their own names: `describe runs/a/report.json` is `describe runs/a`.
OF_FOLDERS = (
    "report.json", "run.json", "search.json", "race.json", "supernet.json", "subnet.json", "network.json", "config.json",
    "manifest.json", "bundle.json",
)  # fmt: skip
JOINT = "autoformer/joint-report/"  # the only report.json that is not of a run
# By the format of a JSON file without its number: what it is, and what to type; FILE and FOLDER stand for its path.
KINDS = {
    "audit": ("what `autoformer audit` found", ""),
    "batches": ("latencies by batch, of `autoformer profile run --batches`", "autoformer report build FILE --out REPORT"),
    "board": ("what a bundle found on a device", "autoformer report import FILE --run RUN"),
    "bundle": ("the contents of a bundle", "autoformer describe FOLDER"),
    "comparison": ("a table of `autoformer compare`", ""),
    "data-check": ("what `autoformer data check` found", ""),
    "evaluation": ("what `autoformer evaluate` found; evaluation.html beside it shows it", ""),
    "joint-report": ("a report of several sources; report.html beside it shows it", ""),
    "kit": ("the contents of a benchmark kit", ""),
    "kit-result": ("what a kit measured on a device", "autoformer profile table --from FILE --out TABLE"),
    "latency-answer": ("the measured latencies of a search's finalists", "autoformer describe FOLDER"),
    "layers": ("where the time goes, of `autoformer profile layers`", "autoformer report build FILE --out REPORT"),
    "profile": ("latencies of `autoformer profile run`", "autoformer report build FILE --out REPORT"),
    "race-entrants": ("the entrants of a race", "autoformer describe FOLDER"),
    "regressions": ("what `autoformer profile compare` found", ""),
    "tensorrt-check": ("what `autoformer check` found", ""),
    "test-ledger": ("how often the test part was read", "autoformer describe FOLDER"),
    "test": ("the answers of a run on the test part", "autoformer describe FOLDER"),
    "steps": ("the seconds of a run's steps", "autoformer describe FOLDER"),
}
# By the ending of any other file.
ENDINGS = {
    ".onnx": ("ONNX file", "autoformer check FILE, autoformer profile run FILE"),
    ".engine": ("TensorRT engine", "autoformer inspect FILE"),
    ".plan": ("TensorRT engine", "autoformer inspect FILE"),
    ".zip": ("zip archive, a bundle perhaps: unpack it where it is needed", "python3 board.pyz verify"),
    ".tar": ("tar archive, images perhaps", "autoformer data check FILE"),
    ".pth": ("weights of another program", "autoformer evaluate timm:NAME@FILE --data PHOTOS"),
    ".pt": ("weights of another program", "autoformer evaluate timm:NAME@FILE --data PHOTOS"),
    ".safetensors": ("weights; the folder around them says of which network", "autoformer describe FOLDER"),
    ".html": ("page for a browser", ""),
    ".md": ("text", ""),
    **dict.fromkeys((".jpg", ".jpeg", ".png", ".webp"), ("image", "autoformer predict NETWORK FILE")),
}
LOOKED_AT = 2000  # entries of a folder, to see whether it holds images


def folder_of_file(path: Path) -> Path | None:
    """The folder that a file stands for, where describing the one is describing the other."""
    own = path.name == "architecture.json" and (path.parent / "config.json").exists()
    if (
        not (own or path.name in OF_FOLDERS)
        or not path.is_file()
        or (path.name == "report.json" and _format(path).startswith(JOINT))
    ):
        return None
    return path.parent


def facts_of_file(path: Path) -> dict[str, Any] | None:
    """What a file is and what to type; None for an architecture, which has more to tell. Raises `CheckpointError` for damage and
    `ArchitectureError` for a file of no known kind.
    """
    if path.suffix != ".json":
        what, then = ENDINGS.get(path.suffix.lower(), ("", ""))
        if not what:
            raise ArchitectureError(
                f"{path} is a file that describe does not know; give a space or recipe (a name or YAML), a network (a name or "
                "JSON), a folder, or the JSON that a command wrote"
            )
        return _told(path, what, then, _onnx_facts(path) if path.suffix.lower() == ".onnx" else {})
    found = _format(path)
    kind = found.removeprefix("autoformer/").partition("/")[0]
    if kind == "latency-table":
        return _table_facts(path)
    if kind in KINDS:
        return _told(path, *KINDS[kind])
    if not found and "embed_dim" not in (values := read_json(path)):
        raise ArchitectureError(
            f"{path} is JSON that describe does not know: it has {short(', '.join(map(str, values)), 80) or 'nothing'}, an "
            f"architecture has embed_dim; what its folder is says: autoformer describe {shlex.quote(str(path.parent))}"
        )
    return None


def nothing_called(words: str) -> str:
    """That nothing has this name, and what is known."""
    from autoformer.architecture import PUBLISHED
    from autoformer.cli.chain.shipped import shipped
    from autoformer.space import PRESETS

    return (
        f"nothing is called {short(words, 80)!r}: there is no such file or folder; known are the networks "
        f"{', '.join(PUBLISHED)}, the spaces {', '.join(PRESETS)}, the recipes {', '.join(shipped())}, and timm:NAME"
    )


def _told(path: Path, what: str, then: str, more: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    facts: dict[str, Any] = {"kind": "file", "what": what, "bytes": path.stat().st_size, **more}
    if then:
        facts["next"] = then.replace("FILE", shlex.quote(str(path))).replace("FOLDER", shlex.quote(str(path.parent)))
    return facts


def _onnx_facts(path: Path) -> dict[str, Any]:
    """What an ONNX file holds, as far as it and the manifest beside it say. Raises `CheckpointError` for a damaged one."""
    from autoformer.export.graphs.model_metadata import ModelMetadata
    from autoformer.export.graphs.onnx_graph import opset_of
    from autoformer.export.graphs.onnx_reading import read_model
    from autoformer.profiling.backends.of_artefacts import onnx_precision
    from autoformer.profiling.profiles.artefact_costs import costs_of

    model, costs = read_model(path, weights_beside=True), costs_of(str(path))
    stored = {tensor.name for tensor in model.graph.initializer}
    names = ModelMetadata.from_properties({entry.key: entry.value for entry in model.metadata_props}, path).classes
    last = [size.dim_value for value in model.graph.output[:1] for size in value.type.tensor_type.shape.dim[1:]]
    return {
        "params": costs.params, "flops": costs.flops,
        "input": "; ".join(_tensor(value) for value in model.graph.input if value.name not in stored),
        "classes": len(names) if names is not None else last[0] or None if len(last) == 1 else None,
        "precision": onnx_precision(path), "opset": opset_of(model),
    }  # fmt: skip


def _tensor(value: ValueInfoProto) -> str:
    """Shape and type of an input: [batch, 3, 224, 224] float32."""
    import onnx

    of = value.type.tensor_type
    sizes = (str(size.dim_value) if size.HasField("dim_value") else size.dim_param or "any" for size in of.shape.dim)
    kinds = {number: name.lower() for name, number in onnx.TensorProto.DataType.items()}
    kind = "float32" if of.elem_type == onnx.TensorProto.FLOAT else kinds.get(of.elem_type, f"type {of.elem_type}")
    return f"[{', '.join(sizes)}] {kind}"


def _format(path: Path) -> str:
    """The "format" that a JSON file states; empty where it states none or cannot be read, which others say better."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ""
    found = values.get("format") if isinstance(values, dict) else None
    if isinstance(values, list) and values and isinstance(values[0], dict):  # of several batches, each with its own
        found = values[0].get("format")
    return found if isinstance(found, str) else ""


def _table_facts(path: Path) -> dict[str, Any]:
    """What a latency table says of itself."""
    from autoformer.profiling.tables.table import LatencyTable

    table = LatencyTable.load(path)
    return {
        "kind": "latency table",
        "space": table.space.name,
        "means": str(table.measurement_conditions),
        "networks": len(table.networks),
        "error": f"{100 * table.cross_validation_mape:.2g} % on average, of networks that were left out",
        "measured": table.created,
        "next": f"autoformer search --supernet SUPERNET --latency-table {shlex.quote(str(path))} --max-latency 5ms --out SEARCH",
    }


def facts_of_recipe(words: str) -> dict[str, Any] | None:
    """What a recipe says of itself, by its name or its file; None where `words` are neither."""
    from autoformer.cli.chain.recipe import Recipe, load_recipe
    from autoformer.cli.chain.shipped import found_recipe, header, shipped
    from autoformer.errors import RecipeError
    from autoformer.settings import read_yaml

    if words not in shipped() or Path(words).exists():
        if Path(words).suffix not in (".yaml", ".yml"):
            return None
        try:
            values = read_yaml(Path(words).read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecipeError):
            return None
        if not isinstance(values, dict) or not set(values) & {name for name in Recipe.model_fields if name != "seed"}:
            return None
    path = found_recipe(words)
    recipe, said = load_recipe(path), header(path)
    limits = {name.removeprefix("max_").replace("_", " "): limit for name, limit in recipe.budget if limit is not None}
    name = shlex.quote(words)
    return {
        "kind": "recipe",
        **({"what": short(said[""], 300)} if said[""] else {}),
        **({"cost": said["cost"]} if "cost" in said else {}),
        "images": recipe.data.source,
        "limits": ", ".join(f"{measure} {limit}" for measure, limit in limits.items()) or "none",
        "see": f"autoformer recipe show {name}",
        "next": f"autoformer run {name}",
    }


def facts_of_images(folder: Path) -> dict[str, Any] | None:
    """That a folder holds images, where it does and nothing else is known of it."""
    from autoformer.data.folders import holds_images, visible_folders

    classes, place = sum(holds_images(one) for one in visible_folders(folder)), shlex.quote(str(folder))
    if not classes and holds_images(folder):
        return {"kind": "folder of images without classes", "next": f"autoformer predict RUN {place}"}
    if not classes and not any(_images_below(folder)):
        return None
    facts: dict[str, Any] = {"kind": "folder of images"}
    if classes:
        facts["class folders"] = classes
    return {**facts, "next": f"autoformer data check {place}"}


def _images_below(folder: Path) -> Iterator[str]:
    """Images among the first entries, however deep."""
    from autoformer.data.images import IMAGE_ENDINGS

    seen = 0
    for _, _, names in os.walk(folder):
        for name in names:
            seen += 1
            if seen > LOOKED_AT:
                return
            if name.lower().endswith(IMAGE_ENDINGS):
                yield name


def facts_of_timm(words: str) -> dict[str, Any]:
    """What timm says of one of its networks; nothing is downloaded, and of a file only whether it is there."""
    from autoformer.errors import CheckpointError
    from autoformer.pretrained.timm_models import name_and_file
    from autoformer.pretrained.weight_shapes import sketch

    name, file = name_and_file(words)
    network = sketch(name)
    if file is not None and not file.is_file():
        raise CheckpointError(f"{file} does not exist; expected a file with weights of timm's {name}")
    told = network.pretrained_cfg
    facts = {
        "kind": "network of timm", "name": told.get("architecture") or name,
        "params": sum(tensor.numel() for tensor in network.parameters()),
        "classes": None if file is not None else network.num_classes,
        "input_size": told.get("input_size"), "mean": told.get("mean"), "std": told.get("std"),
        "weights": "timm's, downloaded when they are needed" if file is None else f"of {file}, whose classes count",
        "next": f"autoformer finetune {shlex.quote(words)} --data PHOTOS --out NETWORK",
    }  # fmt: skip
    return {name: value for name, value in facts.items() if value is not None}
