"""`write_bundle`: one folder with everything a deployment needs, from an export folder.

    bundle.json           what a device should find again: digest of every file, budget, accuracy; and how it was made
    manifest.json         the files' own manifest, and the files
    board.pyz             verifies, predicts, times and builds on the device (Python 3.10, numpy, Pillow, a runtime)
    labels.txt            class names, a line each
    class_map.txt         the same for timm's reader of images, where its form can hold them
    preprocessing.json    what becomes of an image
    check/                images of the search part as the network sees them, and what each ONNX file gave for them
    triton/NAME/          a model repository for NVIDIA's Triton server
    README.md             the model card
    licence.txt           as given by the user, where it was

A bundle is a folder, or the same in a .zip file. Archives of others are unpacked with care: see `unpack_bundle`.
"""

from __future__ import annotations

import json
import shutil
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from autoformer.cost import show
from autoformer.data.classes import write_class_map
from autoformer.data.value_range import words_on_range
from autoformer.errors import CheckpointError, ExportError
from autoformer.escaping import markdown
from autoformer.export.expected import FILE_NAME, ExpectedResults
from autoformer.export.graphs.onnx_file import module_scopes
from autoformer.export.graphs.onnx_model import OnnxModel
from autoformer.export.manifest import Artefact, Manifest, check_inside, sha256_of
from autoformer.export.parity import filled_up, run_in_batches
from autoformer.file_kinds import stand_in
from autoformer.files import refuse_existing, refuse_existing_file, replacing, write_folder, write_json
from autoformer.metric import percent

MAX_UNPACKED_BYTES = 8 << 30
MAX_FILES = 10_000
BAD_ARCHIVE = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    NotImplementedError,
    RuntimeError,
    UnicodeDecodeError,
    EOFError,
)
SHOWN_CLASSES = 40
USES = {"train": "train on", "search": "search and calibrate on", "test": "test on"}


def write_bundle(
    export: Path, out: Path, expected: ExpectedResults, *, pixels: NDArray[np.uint8], program: bytes, licence: str | None = None
) -> Path:
    """Writes the bundle of an export folder, whole or not at all, into a folder or, where `out` ends in .zip, an archive.

    `pixels` are check images as the preprocessing leaves them before normalising, uint8 [n, H, W, C], whose classes `expected`
    names; the digests of the files, the costs and the architecture are added to it. `program` is the board program, `licence` the
    text of a licence. Raises `CheckpointError` when a file is not the one its manifest describes, and `OutputExistsError` when
    something stands at `out`.
    """
    if out.suffix == ".zip":
        refuse_existing_file(out)
        with replacing(out) as beside:
            folder = beside.parent / out.stem
            write_bundle(export, folder, expected, pixels=pixels, program=program, licence=licence)
            with zipfile.ZipFile(beside, "w", zipfile.ZIP_DEFLATED) as archive:
                for path in _files(folder):
                    archive.write(path, path.relative_to(beside.parent))
        return out
    refuse_existing(out)
    manifest = Manifest.load(export)
    onnx = manifest.find("onnx", "fp32")
    if onnx is None or onnx.file is None:
        raise ExportError(f"{export} holds no fp32 ONNX file, which a bundle is verified with; export it again")
    if len(pixels) != len(expected.labels):
        raise ExportError(f"{len(pixels)} check images with {len(expected.labels)} labels; expected as many")
    paths = [manifest.verified_file(export, artefact) for artefact in manifest.artefacts if artefact.file is not None]
    with write_folder(out) as folder:
        for path in paths:
            shutil.copyfile(path, folder / path.name)
            if module_scopes(path):  # whole, then
                shutil.copyfile(path.with_suffix(".scopes.json"), folder / f"{path.stem}.scopes.json")
        manifest.save(folder)
        _write_labels(folder, manifest)
        write_class_map(manifest.classes, folder)
        write_json(manifest.preprocessing.to_dict(), folder / "preprocessing.json")
        (folder / "board.pyz").write_bytes(program)
        logits = _write_check(folder, manifest, pixels)
        served = _served(manifest, expected) or onnx
        _write_triton(folder / "triton" / expected.name, manifest, served, folder / str(served.file))
        if licence is not None:
            (folder / "licence.txt").write_text(licence, encoding="utf-8")
        (folder / "README.md").write_text(model_card(manifest, expected, licence), encoding="utf-8")
        replace(
            expected,
            costs={"params": manifest.params, "flops": manifest.flops},
            architecture=manifest.architecture,
            logits=logits,
            files={path.relative_to(folder).as_posix(): sha256_of(path) for path in _files(folder)},
        ).save(folder)
    return out


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _write_labels(folder: Path, manifest: Manifest) -> None:
    (folder / "labels.txt").write_text("".join(f"{_one_line(name)}\n" for name in manifest.classes), encoding="utf-8")


def _write_check(folder: Path, manifest: Manifest, pixels: NDArray[np.uint8]) -> dict[str, str]:
    """Writes the check images, and the logits that each ONNX file gives here; gives the names of those files by the artefact's.

    A file that does not run here has none: it is compared with the logits of the fp32 file, as in earlier bundles.
    """
    (folder / "check").mkdir()
    for index, image in enumerate(pixels):
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(folder / "check" / f"{index:04d}.png")
    images, found = manifest.preprocessing.prepare(pixels), {}
    for artefact in manifest.artefacts:
        if artefact.format != "onnx" or artefact.file is None:
            continue
        try:
            logits, _ = run_in_batches(filled_up(OnnxModel(folder / artefact.file), artefact.batch), images, (16,))
        except CheckpointError:
            if artefact.precision == "fp32":
                raise
            continue
        found[artefact.name] = "check/logits.npy" if artefact.precision == "fp32" else f"check/logits.{artefact.precision}.npy"
        np.save(folder / found[artefact.name], logits, allow_pickle=False)
    return found


def _served(manifest: Manifest, expected: ExpectedResults) -> Artefact | None:
    """What a server is given: the file to ship where that is an ONNX file, else the fp32 one."""
    shipped = None if expected.ship is None else manifest.find_file(expected.ship)
    return shipped if shipped is not None and shipped.format == "onnx" else manifest.find("onnx", "fp32")


def _write_triton(folder: Path, manifest: Manifest, artefact: Artefact, onnx: Path) -> None:
    """A repository of one model: config.pbtxt, labels, and version 1."""
    (folder / "1").mkdir(parents=True)
    shutil.copyfile(onnx, folder / "1" / "model.onnx")
    any_batch = artefact.batch is None
    first = [] if artefact.batch is None else [artefact.batch]
    kind = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}[manifest.preprocessing.input_type]
    sizes = ", ".join(str(size) for size in (*first, *artefact.input_shape[1:]))
    outputs = ", ".join(str(size) for size in (*first, len(manifest.classes)))
    (folder / "config.pbtxt").write_text(
        f'name: "{folder.name}"\n'
        'platform: "onnxruntime_onnx"\n'
        f"max_batch_size: {64 if any_batch else 0}\n"
        f"input [ {{ name: {json.dumps(artefact.input_name)} data_type: {kind} dims: [ {sizes} ] }} ]\n"
        f"output [ {{ name: {json.dumps(artefact.output_name)} data_type: TYPE_FP32 dims: [ {outputs} ] "
        'label_filename: "labels.txt" } ]\n' + ("dynamic_batching { }\n" if any_batch else ""),
        encoding="utf-8",
    )
    _write_labels(folder, manifest)


def model_card(manifest: Manifest, expected: ExpectedResults, licence: str | None = None) -> str:
    """The README of a bundle: what the network is for, how good it is, on what, and where that ends."""
    data = manifest.data or {}
    parts = data.get("parts", {})
    sizes = ", ".join(f"{part['images']} to {use}" for name, use in USES.items() if (part := parts.get(name)))
    rows = []
    for artefact in manifest.artefacts:
        name = artefact.name
        score, time = expected.accuracy.get(name), expected.latency.get(artefact.file or "")
        shown = percent(score["value"], score["low"], score["high"]) if score else "not scored"
        timed = f"{time['p50_ms']:.3g} ms ({markdown(time['means'])}; {markdown(time['verdict'])})" if time else "not measured"
        why = "; ".join(filter(None, (artefact.reason, artefact.advice)))
        rows.append(f"| {markdown(artefact.file or name)} | {markdown(artefact.status)} | {shown} | {timed} | {markdown(why)} |")
    first = next(iter(expected.accuracy.values()), None)
    on = markdown(f"{first['words']} on {first['images']} images of the {first['part']} part" if first else "accuracy")
    size = manifest.preprocessing.input_size
    shape = next((a.input_shape for a in manifest.artefacts if a.file), ("batch", manifest.preprocessing.in_chans, size, size))
    used = (
        f"{sizes or 'sizes not recorded'}"
        if manifest.network is None
        else "the images that its files were calibrated and checked on; what its first weights learned from, their makers know"
    )
    chosen = [] if manifest.architecture is None else manifest.architecture.asked_for
    asked_for = f" ({', '.join(chosen)})" if chosen else ""
    kind = f"{markdown(manifest.network)}, a network" if manifest.network else f"a vision transformer{asked_for}"
    runtimes = [f"tensorrt-rtx {one.made.get(one.format)} and cuda-python" for one in manifest.artefacts if one.status == "built"]
    ahead = "".join(
        f"\nEngines that were built ahead of time run by {markdown(names)}, on the RTX GPUs that they are for; for\n"
        "another version: `python3 board.pyz build --format tensorrt-rtx`."
        for names in dict.fromkeys(runtimes)
    )
    takes = {
        "float32": "float32 images, normalised as preprocessing.json says",
        "uint8": "uint8 pixels, resized and cropped as preprocessing.json says; normalising is part of the network",
    }[manifest.preprocessing.input_type]
    served = "the file to ship" if _served(manifest, expected) is not manifest.find("onnx", "fp32") else "the fp32 file"
    beyond = words_on_range(manifest.preprocessing.value_range)
    ship = f"Ship **{markdown(expected.ship)}**. {markdown(expected.ship_why)}\n\n" if expected.ship else ""
    cautions = "".join(f"\n**Caution:** {markdown(said)}\n" for said in expected.cautions)
    words = ", ".join(
        f"{name.removesuffix('_ms').replace('_', ' ')} {show(name[4:], limit)}" for name, limit in expected.budget.items()
    )
    means = f" ({expected.latency_means})" if expected.latency_means and "max_latency_ms" in expected.budget else ""
    limits = f"\nMade to keep {markdown(words + means)}; `verify` says whether it does on the device.\n" if words else ""
    terms = (
        "see licence.txt" if licence else "not stated by those who made this bundle (`autoformer bundle --licence FILE` adds one)"
    )
    return f"""# {markdown(expected.name)}

A classifier of {len(manifest.classes)} classes ({", ".join(map(markdown, manifest.classes[:SHOWN_CLASSES]))}{
        ", ..." if len(manifest.classes) > SHOWN_CLASSES else ""
    })
for images of {size} × {size} pixels: {kind} of {manifest.params:,} parameters{
        f" and {manifest.flops:,} multiply-adds" if manifest.flops else ""
    }.

## Use

{ship}    python3 board.pyz verify
    python3 board.pyz predict photo.jpg
    python3 board.pyz bench
    python3 board.pyz build      # TensorRT engines, on a device that has it

The program needs Python 3.10 or newer, numpy, Pillow, and onnxruntime or tensorrt. `verify` compares every file with the logits
that it gave itself for {
        len(expected.labels)
    } check images where this bundle was made, says how many of them it gets right, and measures the budget on the device.
Without the program: the files take {takes}, [{", ".join(markdown(str(entry)) for entry in shape)}]{beyond}.
The folder `triton` is a model repository for NVIDIA's Triton server, of {served}.{ahead}

## How good it is

| file | state | {on}, 95 % interval | latency where it was made | what was found |
|---|---|---|---|---|
{chr(10).join(rows)}
{cautions}{limits}
## Data

{markdown(Path(str(data.get("source", "not recorded"))).name)}: {
        used
    }. Scores are of images like these; of other cameras, places or
classes they say nothing. Every image gets one of the {len(manifest.classes)} classes, also one that shows none of them.

## Licence

{terms}
"""


def _one_line(text: str) -> str:
    return " ".join(text.split())


def unpack_bundle(archive: Path, out: Path) -> Path:
    """Unpacks an archived bundle into the new folder `out` and gives the folder that holds its bundle.json.

    Raises `CheckpointError`, with nothing left behind, for a file that is not a zip archive, names files outside its
    folder, holds links, would unpack to more than 8 GiB or 10,000 files, or is not a bundle. Raises `OutputExistsError` when
    `out` exists.
    """
    refuse_existing(out)
    try:
        with zipfile.ZipFile(archive) as packed, write_folder(out) as folder:
            entries = packed.infolist()
            total = sum(entry.file_size for entry in entries)
            if total > MAX_UNPACKED_BYTES or len(entries) > MAX_FILES:
                raise CheckpointError(f"{archive} would unpack to {len(entries)} files of {total / 2**30:.1f} GiB; refused")
            for entry in entries:
                check_inside(entry.filename)
                if (entry.external_attr >> 16) & 0o170000 == 0o120000:
                    raise CheckpointError(f"{archive} holds a link ({entry.filename}); refused")
            left = MAX_UNPACKED_BYTES
            for entry in entries:
                left = _unpack(packed, entry, folder, left, archive)
            found = sorted(folder.glob(FILE_NAME)) + sorted(folder.glob(f"*/{FILE_NAME}"))
            if len(found) != 1:
                raise CheckpointError(f"{archive} holds {len(found)} bundles, expected one")
            json.loads(found[0].read_text(encoding="utf-8"))
            place = found[0].parent.relative_to(folder)
        return out / place
    except FileNotFoundError as error:
        raise CheckpointError(f"{archive} does not exist; expected a bundle") from error
    except BAD_ARCHIVE as error:
        if (kind := stand_in(archive)) is not None:
            raise CheckpointError(f"{archive} {kind}; expected a bundle") from error
        raise CheckpointError(f"{archive} is truncated or not a zip file ({error}); copy it again") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{archive} cannot be unpacked ({' '.join(str(error).split())})") from error


def _unpack(packed: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path, left: int, archive: Path) -> int:
    """Writes one entry, counting what really comes out of it, whatever the archive says; gives how many bytes are left."""
    path = folder / entry.filename
    if entry.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        return left
    path.parent.mkdir(parents=True, exist_ok=True)
    with packed.open(entry) as source, path.open("xb") as target:
        while piece := source.read(1 << 20):
            left -= len(piece)
            if left < 0:
                raise CheckpointError(f"{archive} unpacks to more than {MAX_UNPACKED_BYTES >> 30} GiB; refused")
            target.write(piece)
    return left
