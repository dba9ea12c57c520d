"""A network's folder as Hugging Face's Hub takes it: the README with the header that the Hub reads, and what stays here.

`huggingface_hub.upload_folder`, `hf upload` and git leave out what `.gitignore` names: the log of the training, its checkpoints,
and what the folder is known by on this machine. The images are named; where they lay, only `subnet.json` or
`network.json` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from autoformer.escaping import markdown
from autoformer.metric import Metric, Score

STAYS_HERE = (
    ".lock", "checkpoints/", "data.json", "identity.json", "log.jsonl", "logits/", "nonfinite-step-*", "tensorboard/",
    "trackers.json",
)  # fmt: skip
HUB_METRICS: dict[Metric, str] = {"top1": "accuracy", "balanced_accuracy": "balanced_accuracy", "macro_f1": "f1"}  # its names
UNKNOWN = "unknown"  # of a licence, as the Hub writes it
UNNAMED = "unnamed"  # data of which nobody said anything
MOST_CLASSES = 12  # named


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a README says of a network."""

    name: str
    kind: str  # in words: a vision transformer of ...
    is_ours: bool  # timm knows it after `import autoformer.networks` only
    params: int
    image_size: int  # pixels
    classes: tuple[str, ...]
    licence: str | None  # an identifier of the Hub; None: nobody said

    def write(self, folder: Path, record: Mapping[str, Any]) -> None:
        """Writes README.md and .gitignore; `record` says how the network was trained and what it scored."""
        found = search_score(record)
        header = yaml.safe_dump(self.header(found, data_name(record)), sort_keys=False, allow_unicode=True)
        (folder / "README.md").write_text(f"---\n{header}---\n\n{self.text(found)}", encoding="utf-8")
        (folder / ".gitignore").write_text("".join(f"{name}\n" for name in STAYS_HERE), encoding="utf-8")

    def header(self, found: Score | None, images: str) -> dict[str, Any]:
        """The Hub's model card metadata (https://huggingface.co/docs/hub/model-cards); `images` is the name of the data."""
        values: dict[str, Any] = {
            "library_name": "timm",
            "pipeline_tag": "image-classification",
            "tags": ["image-classification", "timm", *(["autoformer", "neural-architecture-search"] if self.is_ours else [])],
            "license": self.licence or UNKNOWN,
        }
        if found is None:
            return values
        metric = {"type": HUB_METRICS[found.metric], "value": round(found.value, 6), "name": f"{found.words}, search part"}
        result = {
            "task": {"type": "image-classification"},
            "dataset": {"type": images, "name": images},
            "metrics": [metric],
        }
        return {**values, "metrics": [metric["type"]], "model-index": [{"name": self.name, "results": [result]}]}

    def text(self, found: Score | None) -> str:
        """The README below its header."""
        named = ", ".join(map(markdown, self.classes[:MOST_CLASSES])) + (" ..." if len(self.classes) > MOST_CLASSES else "")
        register = "import autoformer.networks  # of the toolchain that made it: registers the network with timm\n"
        scored = "It was not scored since it was made."
        if found is not None:
            scored = (
                f"{found.rounded} {found.words}, 95 % interval {str(found).partition(' % ')[2]}, on "
                f"{found.images} images of the search part, which choices were made by. Of other images it says nothing."
            )
        terms = f"{self.licence}." if self.licence else "Not stated yet: set `license` in the header above before you publish."
        return (
            f"# {markdown(self.name)}\n\n"
            f"{self.kind}, {self.params:,} parameters, for images of {self.image_size} × {self.image_size} pixels and "
            f"{len(self.classes)} classes: {named}.\n\n"
            f"## Use\n\n```python\nimport timm\n{register if self.is_ours else ''}"
            '\nmodel = timm.create_model("hf-hub:USER/NAME", pretrained=True)  # or "local-dir:FOLDER"\n```\n\n'
            "`config.json` holds the preprocessing and the names of the classes.\n\n"
            f"## How good it is\n\n{scored}\n\n## Licence\n\n{terms}\n"
        )


def data_name(record: Mapping[str, Any]) -> str:
    """What the data of a record are called, without the folders that they lie in."""
    data = record.get("data")
    source = data.get("source") if isinstance(data, Mapping) else None
    return Path(source).name.removesuffix(".tar") or UNNAMED if isinstance(source, str) else UNNAMED


def search_score(record: Mapping[str, Any]) -> Score | None:
    """The score on the search part of the weights that were kept; None where there is none, as after `fold_search`."""
    history = record.get("history") or []
    best = record.get("best") if (record.get("train") or {}).get("patience") is not None else None
    kept = history[best["epoch"] - 1] if best is not None else (history or [{}])[-1]
    scores = list((kept.get("scores") or {}).values())
    return Score.from_dict(scores[0]) if len(scores) == 1 else None
