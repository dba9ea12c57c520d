"""`OnnxGraph`: a network as one ONNX file whose structure is checked while it is written.

torch's exporter gives a graph full of shape arithmetic and records local paths in every node. Here the graph is folded
except for the gathers of relative position tables (folded they would outweigh the tables fourfold, and every runtime folds
them when it loads the file), the recordings are removed, and the module each node came from goes into a side file
`<name>.scopes.json`.

Letters: B images, C channels, H × W pixels.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import gc
import io
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto
from torch import Tensor, nn

from autoformer.data.preprocessing import INPUT_TYPES, Preprocessing
from autoformer.errors import CheckpointError, ExportError, short
from autoformer.export.graphs.model_metadata import ModelMetadata
from autoformer.export.graphs.oldest_form import affine_batch_norms, lower_to_17, oldest_ir_version
from autoformer.export.graphs.onnx_model import OnnxModel
from autoformer.export.graphs.onnx_reading import read_model
from autoformer.export.graphs.templates import Graph, KeptTraces, Templates
from autoformer.export.networks.known import MOST_FOLDED, KnownNetwork, largest_table
from autoformer.files import replacing, write_json
from autoformer.networks.stem import ConvStem
from autoformer.temporary import temporary_folder
from autoformer.tensors import tensors_digest

INPUT_NAME, OUTPUT_NAME = "images", "logits"
BATCH_NAME = "batch"
TYPES = {TensorProto.FLOAT: "float32", TensorProto.UINT8: "uint8"}  # of inputs
OPSETS = range(17, 26)  # what can really be written; the exporter silently keeps another opset outside
OLDEST_WRITTEN = 18  # what torch has operators for; 17 is made of it
MAX_ONE_FILE_BYTES = 1_800_000_000  # protobuf ends at 2 GiB
MAX_SIZE_RATIO = 1.12  # file against weights
OTHERS_SIZE_RATIO = 2.0  # of foreign networks, which may hold tables and masks
BYTES_PER_NODE = 512  # room for the graph itself, so that the ratio is about the weights
SMALL_CONSTANT = 4096  # elements; smaller constants are allowed
AGREEMENT = {False: 1e-4, True: 3e-2}  # of the largest logit, in fp32 and in half precision
TEMPLATES = Templates(KeptTraces())  # of this process
EXAMPLE_BATCH = 2  # a batch of one would let older exporters treat the dimension as fixed


@dataclass(frozen=True, kw_only=True)
class OnnxGraph:
    """One checked ONNX file and what it says about itself."""

    path: Path
    opset: int
    batch: int | None  # None: any
    image_shape: tuple[int, int, int]  # channels, height, width
    input_type: str  # "float32" or "uint8"
    num_classes: int
    num_nodes: int
    metadata: ModelMetadata
    input_name: str = INPUT_NAME
    output_name: str = OUTPUT_NAME

    @property
    def scopes_path(self) -> Path:
        """The side file that names the torch module of each node."""
        return self.path.with_suffix(".scopes.json")

    @property
    def input_shape(self) -> tuple[int | str, ...]:
        """Shape of the input, with "batch" where any batch goes."""
        return (BATCH_NAME if self.batch is None else self.batch, *self.image_shape)

    @classmethod
    def from_network(
        cls,
        network: nn.Module,
        path: Path,
        *,
        batch: int | None = None,
        opset: int = 20,
        metadata: Mapping[str, str] = {},
        image_shape: tuple[int, int, int] | None = None,
        input_type: str = "float32",
        as_it_is: bool = False,
    ) -> OnnxGraph:
        """Writes `network` in fp32 to `path`, for any batch or for exactly `batch` images. A few seconds; network unchanged.

        `metadata` are string properties of the file (see `describe`). `image_shape` (channels, height, width) is read from
        the network when None; `input_type` is "float32", or "uint8" for a `PixelInput`. `as_it_is` keeps the precision of
        each weight, as a `HalfPrecision` has them; logits are fp32 all the same. Raises `ExportError` when the network
        cannot be exported as asked.
        """
        shape = image_shape or image_shape_of(network)
        way = Way(batch=batch, opset=opset, input_type=input_type, image_shape=shape, as_it_is=as_it_is)
        written = _write(*way.graph_of(network), path, metadata, network)
        is_asked = (written.batch, written.image_shape, written.input_type, written.opset) == (batch, shape, input_type, opset)
        assert is_asked, f"{written} is another"
        return written

    @classmethod
    def open(cls, path: Path) -> OnnxGraph:
        """Reads and checks an existing file. Raises `CheckpointError` when it is missing, truncated or no image classifier."""
        return _describe_file(read_model(path), path)


def describe(
    network: nn.Module,
    *,
    preprocessing: Preprocessing | None = None,
    classes: Sequence[str] | None = None,
    precision: str = "fp32",
) -> ModelMetadata:
    """What a file made from `network` should say about itself."""
    return ModelMetadata(
        architecture=getattr(network, "architecture", None),
        weights_digest=tensors_digest(network.state_dict()),
        preprocessing=preprocessing,
        classes=None if classes is None else tuple(classes),
        precision=precision,
    )


def image_shape_of(network: nn.Module) -> tuple[int, int, int]:
    """Channels, height and width that the network was made for. Raises `ExportError` when it does not say."""
    embed = getattr(network, "patch_embed", None)
    size, proj = getattr(embed, "img_size", None), getattr(embed, "proj", None)
    config = getattr(network, "pretrained_cfg", None) or {}  # timm
    shape = tuple(config.get("input_size", ()))
    if size is not None and hasattr(embed, "backbone") and len(shape) == 3:  # whose projection is given features, not images
        return (int(shape[0]), int(size[0]), int(size[1]))
    if isinstance(embed, ConvStem):  # whose projection comes last
        return (embed.in_chans, *embed.img_size)
    if size is not None and isinstance(proj, nn.Conv2d):
        return (proj.in_channels, int(size[0]), int(size[1]))
    if len(shape) == 3:
        return (int(shape[0]), int(shape[1]), int(shape[2]))
    raise ExportError(f"{type(network).__name__} does not say which images it takes; give image_shape=(channels, height, width)")


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the standard operators in `model`; 0 when it declares none."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


@dataclass(frozen=True, kw_only=True)
class Way:
    """How a network is exported. Raises `ExportError` for what cannot be written."""

    batch: int | None = None
    opset: int = 20
    input_type: str = "float32"
    image_shape: tuple[int, int, int]
    as_it_is: bool = False

    def __post_init__(self) -> None:
        if self.opset not in OPSETS:
            raise ExportError(f"opset {self.opset} cannot be written; choose one from {OPSETS[0]} to {OPSETS[-1]}")
        if self.batch is not None and self.batch < 1:
            raise ExportError(f"batch must be positive or None for any, got {self.batch}")
        if self.input_type not in INPUT_TYPES:
            raise ExportError(f"input {self.input_type!r} cannot be written; choose one of {', '.join(INPUT_TYPES)}")

    def graph_of(self, network: nn.Module) -> Graph:
        """The graph of a network in memory: out of what is known of its family, or traced.

        What is written for the first network of a family, of a kind of block and of an image size is compared with it. Raises
        `ExportError` when it cannot be exported.
        """
        _check_size(network)
        # of a fixed batch the tables of the grid are computed in the graph
        known = KnownNetwork.of(network, any_size=self.batch is None) if self.suits(network) else None
        if known is None:
            return self.traced(network)
        learned = self.of_probe(known)
        is_new = not TEMPLATES.knows(known, learned)
        found = TEMPLATES.graph_of(known, learned, learned.traced)
        if found is not None and is_new and not _agree(network, found[0], self):
            TEMPLATES.forget(known, learned)
            found = None
        return found or self.traced(network)

    def suits(self, network: nn.Module) -> bool:
        """Whether `network` has its weights in the precision that the file gets, as a template takes them."""
        kinds = {weights.dtype for weights in network.parameters()}
        return kinds <= ({torch.float32, torch.float16} if self.as_it_is else {torch.float32})

    def of_probe(self, known: KnownNetwork) -> Way:
        """The way in which the probe of a network's family is exported, the same for all its image sizes."""
        geometry = known.family.geometry
        return replace(self, image_shape=(geometry.in_chans, *geometry.img_size)) if known.family.any_size else self

    def traced(self, network: nn.Module) -> Graph:
        """The graph by torch's exporter; seconds. Raises `ExportError`."""
        plain = copy.deepcopy(network).cpu().eval().requires_grad_(False)
        plain = plain if self.as_it_is else plain.float()
        for module in plain.modules():
            if hasattr(module, "fused_attn"):  # timm: products with the scale on the query, the form that runtimes fuse
                setattr(module, "fused_attn", False)  # noqa: B010 (no attribute of nn.Module)
        example = torch.zeros(self.batch or EXAMPLE_BATCH, *self.image_shape, dtype=getattr(torch, self.input_type))
        calls, _ = _try_out(plain, example)
        model = _export(plain, example, self.batch, self.opset)
        scopes = _strip(model)
        if self.opset < OLDEST_WRITTEN:
            lower_to_17(model, scopes)
        if any(isinstance(module, nn.BatchNorm1d) for module in plain.modules()):
            affine_batch_norms(model, scopes)
        if self.input_type == "uint8":
            _cast_first(model)
        model.ir_version = oldest_ir_version(model)
        largest = max((tensor.numel() for tensor in plain.state_dict().values()), default=0)
        _check_structure(model, self.opset, calls, max(largest, largest_table(plain), SMALL_CONSTANT))
        return model, scopes


def _check_size(network: nn.Module) -> None:
    """Raises `ExportError` when the weights are too many for one file."""
    weight_bytes = _bytes_of(network)
    if weight_bytes > MAX_ONE_FILE_BYTES:
        raise ExportError(f"weights of {weight_bytes / 1e9:.1f} GB do not fit one ONNX file; 1.8 GB is the limit")


def _is_ours(network: nn.Module) -> bool:
    return any(hasattr(module, "architecture") for module in network.modules())


def _bytes_of(network: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in (*network.parameters(), *network.buffers()))


def _write(
    model: onnx.ModelProto, scopes: Mapping[str, str], path: Path, metadata: Mapping[str, str], network: nn.Module
) -> OnnxGraph:
    onnx.helper.set_model_props(model, dict(metadata))
    ratio, weight_bytes = MAX_SIZE_RATIO if _is_ours(network) else OTHERS_SIZE_RATIO, _bytes_of(network)
    room = BYTES_PER_NODE * len(model.graph.node) + 8 * largest_table(network)  # of four bytes each, of two grids at most
    content, limit = model.SerializeToString(), ratio * weight_bytes + room
    if len(content) > limit + sum(len(key) + len(value) for key, value in metadata.items()):
        raise ExportError(f"the graph takes {len(content)} bytes for {weight_bytes} bytes of weights; something was stored twice")
    onnx.checker.check_model(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(scopes, path.with_suffix(".scopes.json"))
    with replacing(path) as beside:
        beside.write_bytes(content)
    return _describe_file(model, path)


def _agree(network: nn.Module, model: onnx.ModelProto, way: Way) -> bool:
    """Whether a graph gives the logits of its network, on noise."""
    generator = np.random.default_rng(0)
    shape = (way.batch or EXAMPLE_BATCH, *way.image_shape)
    pixels = generator.integers(0, 256, shape, np.uint8)
    images = pixels if way.input_type == "uint8" else generator.standard_normal(shape, np.float32)
    with torch.inference_mode():
        expected = copy.deepcopy(network).cpu().eval()(torch.from_numpy(images)).float().numpy()
    with temporary_folder("agreement") as folder:
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        try:
            found = OnnxModel(folder / "model.onnx")(images)
        except CheckpointError:  # sizes inside the graph that do not fit
            return False
    return bool(np.abs(found - expected).max() <= AGREEMENT[way.as_it_is] * max(np.abs(expected).max(), 1e-3))


def _try_out(network: nn.Module, example: Tensor) -> tuple[Counter[type], int]:
    """How often LayerNorm and GELU run in one forward, and the number of classes."""
    calls: Counter[type] = Counter()
    hooks = [
        module.register_forward_hook(lambda *_, kind=kind: calls.update([kind]))
        for kind in (nn.LayerNorm, nn.GELU)
        for module in network.modules()
        if isinstance(module, kind) and getattr(module, "approximate", "none") == "none"
    ]
    try:
        with torch.no_grad():
            logits = network(example)
    except Exception as error:
        raise ExportError(f"{type(network).__name__} cannot run on images {list(example.shape)}: {error}") from error
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(example):
        raise ExportError(f"{type(network).__name__} does not give logits [batch, classes]; only classifiers are exported")
    return calls, logits.shape[1]


def _export(network: nn.Module, example: Tensor, batch: int | None, opset: int) -> onnx.ModelProto:
    from onnxscript.optimizer import optimize_ir

    # Of a fixed batch the expansion of a table over its images would become a constant as well.
    kept = ("Gather",) if batch is None else ("Gather", "Expand")

    def fold(node: Any) -> bool | None:
        return False if node.op_type in kept else None

    limits: dict[str, Any] = {"input_size_limit": MOST_FOLDED} if _is_ours(network) else {}
    shapes = None if batch is not None else ({0: BATCH_NAME},)
    with _quiet(), _collector_paused():
        try:
            program = torch.onnx.export(
                network, (example,), dynamo=True, verbose=False, optimize=False, opset_version=max(opset, OLDEST_WRITTEN),
                input_names=[INPUT_NAME], output_names=[OUTPUT_NAME], dynamic_shapes=shapes,
            )  # fmt: skip
        except Exception as error:  # the exporter raises many kinds, each with pages of text
            raise ExportError(f"torch cannot export {type(network).__name__} to ONNX opset {opset}: {_reason(error)}") from error
        assert program is not None
        optimize_ir(program.model, should_fold=fold, **limits)
        model: onnx.ModelProto = program.model_proto
    return model


def _reason(error: BaseException) -> str:
    """The first line of what the exporter's other errors come from, without its colours."""
    while error.__cause__ is not None:
        error = error.__cause__
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return short(re.sub(r"\x1b\[[0-9;]*m", "", first), 300)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's remarks off the terminal: it prints, logs and warns about things the caller cannot change."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        for module in ("torch", "onnxscript", "onnx_ir", "copyreg"):
            warnings.filterwarnings("ignore", module=rf"{module}(\..*)?$")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Spares the garbage collector's walks over the exporter's many small objects: about a tenth of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _cast_first(model: onnx.ModelProto) -> None:
    """Lets everything else that asks about a uint8 input (its batch) ask about its Cast, the one user TensorRT accepts."""
    name = model.graph.input[0].name
    cast = next((node for node in model.graph.node if node.op_type == "Cast" and node.input[0] == name), None)
    if cast is None:
        raise ExportError("the network computes in uint8; export it as a PixelInput, which casts its images first")
    others = [node for node in model.graph.node if node is not cast]
    for node in others:
        node.input[:] = [cast.output[0] if given == name else given for given in node.input]
    ordered = [copy.deepcopy(node) for node in (cast, *others)]
    del model.graph.node[:]
    model.graph.node.extend(ordered)


def _strip(model: onnx.ModelProto) -> dict[str, str]:
    """Removes the exporter's recordings, local paths among them; gives the module scope of each node."""
    scopes = {}
    for node in model.graph.node:
        recorded = {entry.key: entry.value for entry in node.metadata_props}
        modules = ast.literal_eval(recorded.get("pkg.torch.onnx.name_scopes", "['']"))[:-1]  # the last is the operation
        scopes[node.name] = next((name for name in reversed(modules) if name and not name.startswith("_empty_nn")), "")
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
        value.doc_string = ""
    del model.graph.value_info[:]  # shapes that runtimes infer anyway, and that trip quantisers
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    return scopes


def _check_structure(model: onnx.ModelProto, opset: int, calls: Counter[type], largest: int) -> None:
    """Raises `ExportError` when the graph is not what was asked for, or slower or larger than it has to be."""
    if opset_of(model) != opset:
        raise ExportError(f"asked for opset {opset}, the exporter wrote {opset_of(model)}; choose another opset")
    names = [value.name for value in (*model.graph.input, *model.graph.output)]
    if names != [INPUT_NAME, OUTPUT_NAME]:
        raise ExportError(f"the exporter named inputs and outputs {names}, expected {[INPUT_NAME, OUTPUT_NAME]}")
    operators = Counter(node.op_type for node in model.graph.node)
    if operators["LayerNormalization"] < calls[nn.LayerNorm]:
        raise ExportError(
            f"{calls[nn.LayerNorm]} LayerNorms became {operators['LayerNormalization']} LayerNormalization nodes; "
            "the rest were taken apart, which loses accuracy in fp16"
        )
    gelu = "Gelu" if opset >= 20 else "Erf"
    if operators[gelu] < calls[nn.GELU]:
        raise ExportError(f"{calls[nn.GELU]} GELUs became {operators[gelu]} {gelu} nodes; the rest cannot be fused")
    for tensor in model.graph.initializer:
        elements = int(torch.tensor(list(tensor.dims)).prod()) if tensor.dims else 1
        if elements > largest:
            raise ExportError(f"constant {tensor.name!r} {list(tensor.dims)} is larger than any weight of the network")


def _describe_file(model: onnx.ModelProto, path: Path) -> OnnxGraph:
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    outputs = list(model.graph.output)
    shapes = [
        [dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim]
        for value in (*inputs, *outputs)
    ]
    types = [value.type.tensor_type.elem_type for value in (*inputs, *outputs)]
    fits = len(inputs) == len(outputs) == 1 and types[0] in TYPES and types[1] == TensorProto.FLOAT
    fits = fits and [len(s) for s in shapes] == [4, 2]
    if not fits or None in shapes[0][1:] or shapes[1][1] is None:
        raise CheckpointError(
            f"{path} has inputs and outputs {short(shapes)}; expected one float32 or uint8 input [batch, channels, "
            "height, width] and one float32 output [batch, classes] with fixed sizes beside the batch"
        )
    (batch, *image_shape), (_, num_classes) = shapes
    channels, height, width = (int(size or 0) for size in image_shape)
    return OnnxGraph(
        path=path,
        opset=opset_of(model),
        batch=batch,
        image_shape=(channels, height, width),
        input_type=TYPES[types[0]],
        num_classes=int(num_classes or 0),
        num_nodes=len(model.graph.node),
        metadata=ModelMetadata.from_properties({entry.key: entry.value for entry in model.metadata_props}, path),
        input_name=inputs[0].name,
        output_name=outputs[0].name,
    )
