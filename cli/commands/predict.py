"""`autoformer predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoformer.cli.options import Json


def predict(
    artefact: Annotated[
        Path, typer.Argument(help="A folder of a network, an export or a bundle, a .zip bundle, an ONNX file, an engine.")
    ],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    top: Annotated[int, typer.Option("--top", min=1, help="Classes shown per image.")] = 3,
    classes: Annotated[
        Path | None,
        typer.Option(
            "--classes", metavar="FILE", help="Class map of a network that names no classes: a file with a name per line."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Name the most probable classes of images.

    Example: autoformer predict runs/quickstart/export photo.png other.jpg
    """
    import numpy as np

    from autoformer.cli.console import print_json, print_table
    from autoformer.data.classes import read_class_map
    from autoformer.errors import DataError
    from autoformer.export.predictor import open_predictor

    predictor = open_predictor(artefact)
    if classes is not None:
        if predictor.classes is not None:
            raise DataError(f"--classes has no effect on {artefact}, which names its classes; leave it out")
        predictor = predictor.knowing(read_class_map(classes))
    preprocessing, names = predictor.preprocessing, predictor.classes
    if preprocessing is None:
        raise DataError(f"{artefact} holds no preprocessing; export it with this tool, or name its folder")
    if names is None:
        raise DataError(f"{artefact} does not name its classes; give --classes FILE, a class map with a name per line")
    rows, answers = [], []
    for path in images:
        logits = predictor(preprocessing.of_file(path)[None])[0].astype(np.float64)
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        best = [(names[index], float(shares[index])) for index in np.argsort(-shares)[:top]]
        answers.append({"image": str(path), "classes": [{"name": name, "probability": share} for name, share in best]})
        rows.append((str(path), ", ".join(f"{name} {100 * share:.1f} %" for name, share in best)))
    if json:
        print_json(answers)
    else:
        print_table(f"{artefact}", ("image", "classes by probability"), rows)
