"""Options that several commands share: one spelling, one meaning, one unit."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder to write; refused if it holds something else.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress on stderr.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override any key of the recipe: --set train.epochs=50.")
]
Data = Annotated[
    str | None,
    typer.Option("--data", help="digits, a folder, a .tar file, or a data set name of timm: torch/cifar10@FOLDER."),
]
Classes = Annotated[
    str | None,
    typer.Option(
        "--classes",
        metavar="text|natural|FILE",
        help="Order of the classes of a network that names none: text (1, 10, 2; the default), natural (1, 2, 10; timm's), or a "
        "class map: a file with a name per line.",
    ),
]
GroupBy = Annotated[
    str | None,
    typer.Option("--group-by", help="Regular expression on image paths; images of one group stay in one part: '(video[0-9]+)'."),
]
Unlabelled = Annotated[
    Path | None,
    typer.Option(
        "--unlabelled",
        metavar="FOLDER",
        help="Folder (any depth) or .tar file of images without labels, which are trained on too, taught by the teacher alone.",
    ),
]
Epochs = Annotated[int | None, typer.Option("--epochs", min=1, help="Of the training. Default: the recipe's.")]
Seed = Annotated[
    int | None,
    typer.Option("--seed", min=0, max=2**31 - 1, help="Seed of all random choices. Default: the recipe's."),
]


class MetricName(StrEnum):
    top1 = "top1"
    balanced_accuracy = "balanced_accuracy"
    macro_f1 = "macro_f1"


Metric = Annotated[
    MetricName | None,
    typer.Option("--metric", help="Measure of accuracy that networks are compared by. Default: that of their training."),
]


class TrackerName(StrEnum):
    wandb = "wandb"
    mlflow = "mlflow"
    tensorboard = "tensorboard"


Log = Annotated[
    list[TrackerName] | None,
    typer.Option("--log", help="Also tell this tracker how each training goes; may be repeated. Changes no weights."),
]
Recipe = Annotated[
    Path | None, typer.Option("--recipe", help="YAML file; its section for this command, its seed and its threads are used.")
]
MaxParams = Annotated[
    str | None, typer.Option("--max-params", help="Upper limit on parameters: 6M, or 60% of the largest network.")
]
MinParams = Annotated[str | None, typer.Option("--min-params", help="Lower limit on parameters.")]
MaxFlops = Annotated[
    str | None, typer.Option("--max-flops", help="Upper limit on FLOPs (multiply-adds): 1.3G, or 60% of the largest network.")
]
MinFlops = Annotated[str | None, typer.Option("--min-flops", help="Lower limit on FLOPs (multiply-adds).")]
MaxLatency = Annotated[
    str | None,
    typer.Option("--max-latency", help="Upper limit on latency, under the measurement conditions of the table: 2.5ms, or 60%."),
]
LatencyTable = Annotated[
    Path | None, typer.Option("--latency-table", help="Latency table of the target device; see `autoformer profile table`.")
]
Threads = Annotated[int, typer.Option("--threads", min=1, max=1024, help="Threads of the CPU backend.")]
AnyBatch = Annotated[
    int | None, typer.Option("--batch", min=1, help="Images in one call. Default: 1, or the batch that a file is fixed to.")
]
LockClocks = Annotated[
    bool, typer.Option("--lock-clocks", help="Lock a GPU's clock while it is measured, and free it afterwards; needs sudo.")
]
AnyThreads = Annotated[int | None, typer.Option("--threads", min=1, max=1024, help="Threads of the CPU backend. Default: 1.")]


def refuse_without_effect(where: str, **given: object) -> None:
    """Raises `MeasurementError` for the first option, by its name, that was `given`, since `where` it would change nothing."""
    from autoformer.errors import MeasurementError

    for name, value in given.items():
        if value not in (None, False):
            raise MeasurementError(f"--{name.replace('_', '-')} has no effect {where}; leave it out")
