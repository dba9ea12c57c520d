"""A network by its words with the images that a command compares or scores it on: what `export` and `bundle` begin with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

from torch import nn

from autoformer.cli.class_order import better_order, order_of
from autoformer.cli.console import note
from autoformer.data.classes import are_the_same
from autoformer.data.loading import load_parts, parts_of_record
from autoformer.data.parts import DataConfig, DataParts, Part
from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import CheckpointError, DataError
from autoformer.evaluate import EvaluationSet, predict_with, predictions
from autoformer.export.artefacts import ExportSource, export_network
from autoformer.files import TIMM
from autoformer.networks.folders import record_of_network
from autoformer.pretrained.named_network import NamedNetwork, open_network
from autoformer.profiling.profiles.artefact_costs import counted_flops
from autoformer.progress import Progress
from autoformer.search.rungs import balanced_order
from autoformer.temporary import temporary_folder

MOST_BYTES = 2 << 30  # of images as float32 at once; a search part of large images may have many times that


def network_and_images(words: str, data: str | None, classes: str | None = None) -> tuple[NamedNetwork, DataParts]:
    """The network that `words` name and its images, those it was made from, or `data`, with their classes in its order.

    `classes` is `--classes`; a line says where the order is a guess. Raises `CheckpointError` for something that is not a
    network, `DataError` when a foreign network comes without `data`, or with images of other classes than it knows.
    """
    if words.endswith((".onnx", ".plan", ".zip")):
        raise CheckpointError(f"{words} is exported already; give the network it was made from, or use it as it is")
    named = open_network(words)
    record = None if words.startswith(TIMM) else record_of_network(Path(words))
    if record is not None:
        parts = parts_of_record(record["data"], data)
        order_of(parts, named.classes, classes, words)
        return named, parts
    if data is None:
        raise DataError(f"{words} brings no images; give --data")
    parts = load_parts(DataConfig(source=data, image_size=named.preprocessing.image_size))
    if words.startswith(TIMM):  # which says nothing of values beyond 8 bit
        named = replace(named, preprocessing=replace(named.preprocessing, value_range=parts.preprocessing.value_range))
    order, guessed = order_of(parts, named.classes, classes, words)
    if classes is not None or are_the_same(order, parts.classes):
        parts = parts.in_order(order)
    named.check_classes(parts.classes, words)
    if guessed is not None:
        note(guessed)
        _hint(named, parts)
    return named, parts


def _hint(named: NamedNetwork, parts: DataParts) -> None:
    """Says so where the network is right about clearly more images with its classes in another order."""
    images = EvaluationSet.of(judged_part(parts.search, named.preprocessing), named.preprocessing)
    found = predictions(predict_with(named.network), images)
    if hint := better_order(found, images.labels, parts.classes, parts.classes, "give"):
        note(hint)


def judged_part(part: Part, preprocessing: Preprocessing) -> Part:
    """The part, or as many of its images as memory takes, all classes in their shares."""
    most = MOST_BYTES // (4 * preprocessing.in_chans * preprocessing.input_size**2)
    if len(part) <= most:
        return part
    return replace(part, indices=tuple(part.indices[int(position)] for position in sorted(balanced_order(part.labels)[:most])))


def export_source(
    words: str, data: str | None, input: Literal["float32", "uint8"] = "float32", classes: str | None = None
) -> tuple[nn.Module, ExportSource]:
    """The network that `words` name, and the images it is exported with, as files of this `input` take them."""
    named, parts = network_and_images(words, data, classes)
    preprocessing = replace(named.preprocessing, input_type=input)
    images = EvaluationSet.of(judged_part(parts.search, preprocessing), preprocessing)
    source = ExportSource.of(images, parts.classes, parts.record)
    return named.network, replace(source, name=named.name, flops=counted_flops(named))


@contextmanager
def exported_network(words: str, data: str | None, progress: Progress, classes: str | None = None) -> Iterator[Path]:
    """An export folder of the network that `words` name, made with the settings of `autoformer export`; gone afterwards."""
    network, source = export_source(words, data, classes=classes)
    with temporary_folder("export") as temporary:
        folder = temporary / "export"
        export_network(network, folder, source, on_progress=lambda message: progress("export", 0, 1, message))
        progress("export", 1, 1)
        yield folder
