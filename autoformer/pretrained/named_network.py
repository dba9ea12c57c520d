"""`open_network`: a network by the words that name it, whoever made it.

    FOLDER            one that this tool wrote, or timm: config.json beside model.safetensors (or timm's pytorch_model.bin)
    timm:NAME         one of timm's, with the pretrained weights that timm has or downloads
    timm:NAME@FILE    one of timm's, with the weights of a file

With the network come its preprocessing and, where it says them, its classes. Nothing in a folder is executed: what its
config.json says reaches the constructor of the network as plain values, and pickles are loaded as weights alone. A preprocessing
that ours cannot repeat exactly is refused, since a score under another one would be of another model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
from torch import nn

from autoformer.architecture import is_whole
from autoformer.data.classes import some_of
from autoformer.data.preprocessing import INTERPOLATIONS, Preprocessing, PreprocessingError
from autoformer.errors import CheckpointError, DataError
from autoformer.files import TIMM, read_json, refuse_unfinished, stage_of
from autoformer.networks.folders import load_subnet
from autoformer.networks.subnet import TIMM_NAME
from autoformer.pretrained.foreign_weights import read_foreign_weights
from autoformer.pretrained.timm_models import name_and_file, open_timm, timm_network

FORMS = "the folder of a network (ours or timm's), timm:NAME, or timm:NAME@FILE"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # as timm names them in a folder
LARGEST_ARGUMENT = 1 << 14  # of whole numbers in a folder's model_args: widths, image sizes, classes are below it
LARGEST_CLASSES = 1 << 20
NOT_OF_THE_NETWORK = ("cache_dir", "checkpoint_path", "exportable", "features_only", "feature_cfg", "kwargs_filter", "model_cfg",
                      "no_jit", "out_indices", "scriptable")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class NamedNetwork:
    """A network in evaluation mode, with what belongs to it."""

    network: nn.Module
    name: str | None  # timm:NAME; None: one of ours, which says its architecture
    preprocessing: Preprocessing
    classes: tuple[str, ...] | None  # None: it does not say
    num_classes: int
    weights: Path | None  # the file they come from; None: timm's own

    def check_classes(self, names: Sequence[str], words: str) -> None:
        """Raises `DataError` when this network, named by `words`, knows other classes than `names`, or another number of them."""
        if self.classes not in (None, tuple(names)):
            raise DataError(
                f"{words} knows the classes {some_of(self.classes or ())}, the images have {some_of(names)}; give the data set "
                "it was made for, or train it for these: autoformer finetune"
            )
        if self.num_classes != len(names):
            raise DataError(
                f"{words} gives logits of {self.num_classes} classes, the images have {len(names)}; give the data set it was "
                "made for, or train it for these: autoformer finetune"
            )


def is_network(words: str) -> bool:
    """Whether `words` have a form that `open_network` reads; what stands there may still be damaged."""
    return words.startswith(TIMM) or (Path(words) / "config.json").is_file()


def open_network(words: str) -> NamedNetwork:
    """The network that `words` name.

    Raises `CheckpointError` when it cannot be had, is damaged, has no classifier, or wants images prepared in a way that
    `Preprocessing` cannot.
    """
    if words.startswith(TIMM):
        return _described(timm_network(words), words, weights=name_and_file(words)[1])
    folder = Path(words)
    if not (folder / "config.json").is_file():
        refuse_unfinished(folder)
        if (folder / "finetuned" / "config.json").is_file():
            raise CheckpointError(f"{words} is a run; its network lies in {folder / 'finetuned'}: give that folder")
        if (stage := stage_of(folder)) is not None:
            raise CheckpointError(f"{words} holds no network: {stage}")
        raise CheckpointError(f"{words} {'holds no network' if folder.exists() else 'does not exist'}; expected {FORMS}")
    config = read_json(folder / "config.json")
    if config.get("architecture") != TIMM_NAME:
        return _open_folder(folder, config)
    network, preprocessing, classes = load_subnet(folder)
    return NamedNetwork(
        network=network,
        name=None,
        preprocessing=preprocessing,
        classes=classes,
        num_classes=network.num_classes,
        weights=folder / "model.safetensors",
    )


def _open_folder(folder: Path, config: Mapping[str, Any]) -> NamedNetwork:
    """A folder as timm's `save_for_hf` writes it."""
    path = folder / "config.json"
    name, described = config.get("architecture"), config.get("pretrained_cfg", config)
    if not isinstance(name, str) or not isinstance(described, Mapping) or not timm.is_model(name):
        raise CheckpointError(
            f"{path} names the architecture {str(name)[:60]!r}, which is neither ours nor timm's; expected a folder of "
            f"{TIMM_NAME!r} or of a network that timm.list_models() names"
        )
    weights = next((folder / file for file in WEIGHTS if (folder / file).is_file()), None)
    if weights is None:
        raise CheckpointError(f"{folder} holds no weights; expected {' or '.join(WEIGHTS)} beside config.json")
    arguments = _checked_arguments(config.get("model_args") or {}, path, len(read_foreign_weights(weights)))
    pool = config.get("global_pool")
    if isinstance(pool, str) and pool != "token":  # "token" is what a vision transformer does unasked
        arguments = {"global_pool": pool, **arguments}
    try:
        network = open_timm(name, weights, arguments=arguments)
    except CheckpointError:
        raise
    except Exception as error:  # whatever timm's constructors make of impossible arguments
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise CheckpointError(f"{path}: timm cannot make {name} with these model_args ({reason})") from error
    own = network.pretrained_cfg
    kept = {key: described[key] for key in ("mean", "std", "interpolation", "crop_pct", "crop_mode") if described.get(key)}
    size = described.get("input_size")
    if "img_size" not in arguments and isinstance(size, list) and len(size) == 3 and not own.get("fixed_input_size"):
        kept["input_size"] = (own["input_size"][0], *size[1:])
    network.pretrained_cfg = {**own, **kept}
    names = config.get("label_names", described.get("label_names"))
    named = _described(network, str(folder), weights=weights, names=names)
    if "preprocessing" not in config:
        return named
    # A finetune of ours wrote the folder, and says more than timm's description can.
    return replace(named, preprocessing=Preprocessing.from_dict(config["preprocessing"]))


def _checked_arguments(arguments: object, source: Path, num_tensors: int) -> dict[str, Any]:
    """Arguments of a network from a file: plain values of its own, none that loads or fetches. Raises `CheckpointError`."""
    if not isinstance(arguments, Mapping):
        raise CheckpointError(f"{source}: model_args is a {type(arguments).__name__}, expected a JSON object")
    for name, value in arguments.items():
        if name.startswith("pretrained") or name in NOT_OF_THE_NETWORK:
            raise CheckpointError(f"{source}: model_args holds {name!r}, which is not an argument of a network; refused")
        values = value if isinstance(value, list) else [value]
        if not all(entry is None or isinstance(entry, bool | int | float | str) for entry in values):
            raise CheckpointError(f"{source}: model_args.{name} is {str(value)[:60]}, expected plain values")
        most = {"depth": num_tensors, "depths": num_tensors, "num_classes": LARGEST_CLASSES}.get(name, LARGEST_ARGUMENT)
        if len(values) > num_tensors or any(isinstance(entry, int) and abs(entry) > most for entry in values):
            raise CheckpointError(f"{source}: model_args.{name} is {str(value)[:60]}, at most {most} fits its weights")
    return dict(arguments)


def _described(network: Any, words: str, *, weights: Path | None, names: object = None) -> NamedNetwork:
    """A network of timm with what its `pretrained_cfg` says."""
    if not network.num_classes:
        raise CheckpointError(f"{words} has no classifier; give weights that have one, or finetune it on your images first")
    return NamedNetwork(
        network=network.eval(),
        name=f"{TIMM}{network.pretrained_cfg['architecture']}",
        preprocessing=timm_preprocessing(network.pretrained_cfg, words),
        classes=_names(names, network.num_classes),
        num_classes=network.num_classes,
        weights=weights,
    )


def timm_preprocessing(described: Mapping[str, Any], words: str) -> Preprocessing:
    """What timm says becomes of an image of the network that `words` name. Raises `CheckpointError` where ours differs."""
    size = tuple(described.get("input_size") or ())
    if len(size) != 3 or not is_whole(size[1], LARGEST_ARGUMENT) or size[1] != size[2]:
        raise CheckpointError(f"{words} takes images {list(size)} (channels, height, width); only square ones can be prepared")
    channels, side, _ = size
    mean, std = tuple(described.get("mean") or ()), tuple(described.get("std") or ())
    if len(mean) != channels or len(std) != channels:
        raise CheckpointError(
            f"{words} takes {channels} channels, and timm knows the mean and standard deviation of {len(mean)}; give a folder "
            "whose config.json says them (timm's save_for_hf)"
        )
    if (mode := described.get("crop_mode") or "center") != "center":
        raise CheckpointError(f"{words} wants images in timm's crop_mode {mode!r}; only the crop of the centre is known here")
    interpolation = described.get("interpolation") or "bicubic"
    if interpolation not in INTERPOLATIONS:
        known = " and ".join(INTERPOLATIONS)
        raise CheckpointError(f"{words} wants images resized by interpolation {interpolation!r}; only {known} are known here")
    try:
        return Preprocessing(
            image_size=side, in_chans=channels, mean=mean, std=std, interpolation=interpolation,
            crop_pct=described.get("crop_pct") or 0.875,  # what timm takes where it says nothing
        )  # fmt: skip
    except PreprocessingError as error:
        raise CheckpointError(f"{words}: {error}") from error


def _names(names: object, count: int) -> tuple[str, ...] | None:
    """`label_names` in either of timm's forms, a list or a mapping from numbers; None where they do not name every class."""
    if isinstance(names, Mapping):
        names = [names.get(str(index), names.get(index)) for index in range(count)]
    if not isinstance(names, list | tuple) or len(names) != count or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names)
