"""The worst mistakes: wrong answers of which the network was surest, each with a picture of the image as it is stored.

They are where wrong labels, strange images and classes that look alike are found.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from autoformer.data.images import applied
from autoformer.data.parts import Part
from autoformer.data.preprocessing import convert
from autoformer.data.value_range import Range
from autoformer.export.judging.answers import Answers
from autoformer.files import believing, read_document, write_json
from autoformer.records import from_json

FILE_NAME = "mistakes.json"
FORMAT = "autoformer/mistakes/1"
MOST = 24  # of a sheet
LONGEST, SHORTEST = 192, 96  # pixels of a picture's longer side: shrunk to it, enlarged to it
QUALITY = 85  # of JPEG
EXPECTED = "the wrong answers that `autoformer run` keeps"


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A wrong answer."""

    image: str  # its name
    index: int  # among the answers
    label: int  # number of its class
    predicted: int
    probability: float  # that the network gave the class it named, 0..1
    picture: str  # JPEG in base64

    @property
    def address(self) -> str:
        """The picture as an address that holds it."""
        return f"data:image/jpeg;base64,{self.picture}"


def worst_mistakes(
    answers: Answers, parts: Sequence[Part], value_range: Range | None = None, most: int = MOST
) -> tuple[Mistake, ...]:
    """Up to `most` wrong answers, the surest first; equally sure ones in the order of the images.

    `parts` are those that were asked about, `value_range` is that of the preparation.
    """
    wrong = np.flatnonzero(~answers.is_right)
    chosen = wrong[np.argsort(-answers.probability[wrong], kind="stable")][:most]
    return tuple(
        Mistake(
            image=answers.names[at], index=int(at), label=int(answers.labels[at]), predicted=int(answers.predicted[at]),
            probability=float(answers.probability[at]),
            picture=applied(parts[(place := answers.places[at])[0]].images, place[1], lambda image: _picture(image, value_range)),
        )
        for at in chosen
    )  # fmt: skip


def _picture(image: Image.Image, value_range: Range | None) -> str:
    """A small JPEG of an image, in base64."""
    rgb = convert(image, 3, value_range)
    longer = max(rgb.size)
    scale = min(LONGEST / longer, max(1.0, SHORTEST / longer))
    size = (max(1, round(rgb.width * scale)), max(1, round(rgb.height * scale)))
    resample = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS  # of few pixels each is shown
    held = io.BytesIO()
    rgb.resize(size, resample, reducing_gap=3.0 if scale < 1 else None).save(held, "JPEG", quality=QUALITY)
    return base64.b64encode(held.getvalue()).decode("ascii")


def save_mistakes(mistakes: Sequence[Mistake], folder: Path, *, reader: str, split: str) -> None:
    """Writes `mistakes.json`: the wrong answers of `reader` to the images with the digest `split`."""
    values = {"format": FORMAT, "reader": reader, "split": split, "mistakes": [asdict(one) for one in mistakes]}
    write_json(values, folder / FILE_NAME)


def load_mistakes(folder: Path, *, split: str) -> tuple[Mistake, ...] | None:
    """What `save_mistakes` wrote; None where nothing was written. Raises `CheckpointError` for a file of other images."""
    path = folder / FILE_NAME
    if not path.exists():
        return None
    record: dict[str, Any] = read_document(path, FORMAT, expected=EXPECTED)
    with believing(path, "copy the whole folder again or run into a new one"):
        if record["split"] != split:
            raise ValueError("they are of other images than the test part")
        found = tuple(from_json(Mistake, one, f"mistakes[{number}]") for number, one in enumerate(record["mistakes"]))
        for one in found:
            base64.b64decode(one.picture, validate=True)
        return found
