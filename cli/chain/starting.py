"""What a training starts from: fresh weights, a supernet that exists, or a single network with a new head."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from autoformer.cli.chain.recipe import Recipe, batch_for
from autoformer.data.classes import are_the_same
from autoformer.data.loading import check_readable, load_parts, parts_of_record, with_unlabelled, without_recorded
from autoformer.data.parts import UNLABELLED, DataConfig, DataParts
from autoformer.errors import DataError, OutputExistsError, RecipeError
from autoformer.files import IDENTITY, TIMM, read_json, refuse_other_work
from autoformer.networks.folders import images_of_supernet, load_subnet, record_of_network
from autoformer.networks.subnet import TIMM_NAME, Subnet
from autoformer.networks.supernet import Supernet
from autoformer.parsing import SpaceConfig
from autoformer.pretrained.adapt import Wanted, adapt_subnet
from autoformer.pretrained.classifier import Classifier, classifier_from, is_from_scratch, usual_size
from autoformer.pretrained.start import is_folder_of_network, start_from, subnet_from_timm
from autoformer.pretrained.timm_models import name_and_file
from autoformer.pretrained.vit_features import is_plain
from autoformer.progress import Progress
from autoformer.space import SearchSpace
from autoformer.training.config import USUAL_CURRICULUM, USUAL_CUT_IMAGES, FinetuneConfig, SupernetConfig
from autoformer.training.distributed import World

Network = TypeVar("Network", Supernet, Subnet)
Config = TypeVar("Config", SupernetConfig, FinetuneConfig)


def beginning(recipe: Recipe, parts: DataParts) -> tuple[SearchSpace, Supernet | None, bool]:
    """The space, the supernet to start from if the recipe names one, and whether that got a new head.

    A supernet brings its space unless the recipe has one too. One network brings its own with what the recipe says of it, unless
    that names a preset. The head stays where the images have the classes it knows. Where `train.cut_images` is set
    (`with_usual`), the space is one to cut by images, which the training does as it begins. Raises `RecipeError` for settings of
    a cut where nothing is cut.
    """
    start, cut = recipe.train.start, bool(recipe.train.cut_images)
    if cut and not is_one_network(start):
        raise RecipeError(f"train.cut_images is for a start from one pretrained network, got train.start {start}; leave it out")
    if recipe.space.mean_shift and not cut:
        raise RecipeError("space.mean_shift keeps means that are measured as a pretrained network is cut: set train.cut_images")
    if start is None:
        return _space(recipe, parts), None, False
    new_head = _classes_of(start) != parts.classes
    stated, wanted = recipe.space.model_fields_set, Wanted.by(parts)
    if is_one_network(start) and recipe.space.preset == SpaceConfig().preset:
        relative_position = bool(recipe.space.relative_position)
        supernet = start_from(start, wanted, relative_position=relative_position, to_cut=cut)
        if recipe.space.model_copy(update={"relative_position": None}) != SpaceConfig():
            supernet = start_from(start, wanted, space=recipe.space.changed(supernet.space))
    else:
        supernet = start_from(start, wanted, space=_space(recipe, parts) if stated else None)
    return supernet.space, without_head(supernet) if new_head else supernet, new_head


def _space(recipe: Recipe, parts: DataParts) -> SearchSpace:
    return recipe.space.make(parts.preprocessing.image_size, parts.preprocessing.in_chans, len(parts.classes))


def _classes_of(words: str) -> tuple[str, ...] | None:
    """The names of the classes that the weights know, if they say so."""
    if is_folder_of_network(Path(words)):
        return load_subnet(Path(words))[2]
    for folder in (Path(words), Path(words) / "supernet"):
        if (folder / "supernet.json").exists():
            return images_of_supernet(folder)[1]
    return None


def is_one_network(words: str | None) -> bool:
    """Whether words of a start name one pretrained network, of which the largest network alone is trained."""
    return words is not None and (words.startswith(TIMM) or is_folder_of_network(Path(words)))


def with_usual(config: SupernetConfig, out: Path) -> SupernetConfig:
    """The config with the curriculum and the cut that are usual for its start; one begun in `out` without goes on without."""
    if not is_one_network(config.start):
        return config
    identity = out / IDENTITY
    begun = read_json(identity).get("train") if identity.exists() else None
    subnets, changes = config.subnets, dict[str, Any]()
    if subnets.curriculum is None and not (isinstance(begun, Mapping) and "curriculum" not in (begun.get("subnets") or {})):
        changes["subnets"] = subnets.model_copy(update={"curriculum": USUAL_CURRICULUM})
    if config.cut_images is None and not (isinstance(begun, Mapping) and "cut_images" not in begun):
        changes["cut_images"] = USUAL_CUT_IMAGES
    return config.model_copy(update=changes)


def refuse_other_run(out: Path, stated: Mapping[str, Any]) -> None:
    """Raises `OutputExistsError` where `out` holds a run of another recipe; of other limits, with what they can be tried with."""
    try:
        refuse_other_work(out, {"recipe": stated})
    except OutputExistsError as error:
        if "budget." not in str(error) or not (out / "supernet" / "supernet.json").exists():
            raise
        supernet, table = (shlex.quote(str(out / name)) for name in ("supernet", "latency_table.json"))
        priced = f" --latency-table {table}" if (out / "latency_table.json").exists() else ""
        raise OutputExistsError(
            f"{error}; its supernet serves other limits as well: autoformer search --supernet {supernet}{priced} "
            "--max-latency LIMIT --out OTHER"
        ) from error


def with_fitting_batch(config: Config, images: int, section: str, *, has_recipe: bool = True) -> tuple[Config, list[str]]:
    """The config of a training with a batch that so many images fill, and that in a line, where its own is larger than all.

    Without a recipe it is halved until an epoch has enough steps, as where a recipe is chosen for images.
    """
    batch = batch_for(config.batch_size, images)
    if batch == config.batch_size or (has_recipe and config.batch_size <= images):
        return config, []
    own = f"the recipe's {config.batch_size:,}" if has_recipe else f"{config.batch_size:,}"
    line = f"{section}: batches of {batch} images, not {own}, since there are {images:,} to train on"
    return config.model_copy(update={"batch_size": batch}), [line]


def network_and_parts(
    words: str, given: Mapping[str, Any], image_size: int | None, seed: int = 0
) -> tuple[Subnet | Classifier, DataParts, bool]:
    """The network that `words` name, its images, and whether its head is new: what `finetune` begins with.

    Words are a folder of a network (ours or timm's), `timm:NAME`, `timm:NAME@FILE` or `timm:NAME@scratch`; a plain vision
    transformer with weights becomes one of ours. Images are those it was made from, but for what `given` says of them (keys of
    `DataConfig`); it is adapted to their classes and channels, and to images of `image_size` pixels (None: the size it takes, or
    from scratch the size of the images). `seed` decides fresh weights. Raises `DataError` when a network that brings no images
    comes without data, `CheckpointError` when it cannot be had or does not fit.
    """
    if not _becomes_ours(words):
        return _classifier_and_parts(words, given, image_size, seed)
    if words.startswith(TIMM):
        if "source" not in given:
            raise DataError(f"{words} brings no images; give --data")
        size = image_size or given.get("image_size") or subnet_from_timm(words).geometry.img_size[0]
        return network_for(words, load_parts(DataConfig.model_validate({**given, "image_size": size})), seed)
    network, preprocessing, classes = load_subnet(Path(words))
    record = read_json(Path(words) / "subnet.json", "data")["data"]
    if not set(given) - {UNLABELLED} and image_size is None:
        return network, _of_record(record, given), False
    own = DataConfig() if "source" in given else parts_of_record(record).config
    changes = {"image_size": preprocessing.input_size, **given} | ({} if image_size is None else {"image_size": image_size})
    parts = load_parts(DataConfig.model_validate({**own.model_dump(), **changes}))
    if are_the_same(parts.classes, classes):
        parts = parts.in_order(classes)
    adapted = adapt_subnet(network, Wanted.by(parts), preprocessing.normalisation)
    return (adapted, parts, False) if parts.classes == classes else (without_head(adapted), parts, True)


def network_for(words: str, parts: DataParts, seed: int = 0) -> tuple[Subnet | Classifier, DataParts, bool]:
    """The same for images that are there: timm's network `words` fitted to them, `parts` with the classes in its order."""
    if _becomes_ours(words):
        return without_head(subnet_from_timm(words, Wanted.by(parts))), parts, True
    return classifier_from(words, parts, seed)


def _becomes_ours(words: str) -> bool:
    """Whether these words name a network of ours, or a plain vision transformer of timm with weights."""
    if words.startswith(TIMM):
        return not is_from_scratch(words) and is_plain(name_and_file(words)[0])
    config = Path(words) / "config.json"
    return not config.is_file() or read_json(config).get("architecture") == TIMM_NAME


def _classifier_and_parts(
    words: str, given: Mapping[str, Any], image_size: int | None, seed: int
) -> tuple[Classifier, DataParts, bool]:
    """The same for any other network of timm."""
    record = None if words.startswith(TIMM) else record_of_network(Path(words))
    if "source" not in given and record is None:
        raise DataError(f"{words} brings no images; give --data")
    if record is not None and not set(given) - {UNLABELLED} and image_size is None:
        parts = _of_record(record["data"], given)
    else:
        size = image_size or given.get("image_size") or usual_size(words)
        own = DataConfig() if record is None or "source" in given else parts_of_record(record["data"]).config
        parts = load_parts(DataConfig.model_validate({**own.model_dump(), **given, "image_size": size}))
    return classifier_from(words, parts, seed)


def _of_record(record: Mapping[str, Any], given: Mapping[str, Any]) -> DataParts:
    """The parts of a record, with images without labels where they are given."""
    parts = parts_of_record(record)
    return with_unlabelled(parts, Path(given[UNLABELLED])) if given.get(UNLABELLED) is not None else parts


def without_head(network: Network) -> Network:
    """The network with a head of zeros: the same start whatever the seed, so that a training of it can be resumed."""
    with torch.no_grad():
        for weight in network.head.parameters():
            weight.zero_()
    return network


def readable(parts: DataParts, out: Path, world: World, progress: Progress) -> DataParts:
    """The parts without images that cannot be read: as found at the first start, and the same at any later one."""
    if (out / "data.json").exists():
        return without_recorded(parts, read_json(out / "data.json"))
    found = check_readable(parts, progress).unreadable if world.leads else {}
    return without_recorded(parts, {"unreadable": {name: list(names) for name, names in world.from_leader(found).items()}})
