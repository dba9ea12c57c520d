"""The parent of a run: the one pretrained network it starts from, finetuned on the images of the run before it is cut.

What the largest network knows of the classes is there before any smaller one is trained, and the parent, frozen from then on,
teaches all that come after it: the supernet, the networks of a race, the last finetune. The folder `parent` of the run holds it;
a parent that was finetuned on these classes already is taken as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoformer.cli.chain.recipe import Recipe
from autoformer.cli.chain.starting import is_one_network, network_for, without_head
from autoformer.data.parts import DataParts
from autoformer.files import IDENTITY, TIMM, read_json
from autoformer.networks.folders import load_subnet, record_of_network
from autoformer.networks.subnet import Subnet
from autoformer.networks.supernet import Supernet
from autoformer.pretrained.adapt import Wanted, adapt_subnet
from autoformer.pretrained.classifier import Classifier
from autoformer.pretrained.named_network import open_network
from autoformer.pretrained.start import start_from
from autoformer.space import SearchSpace
from autoformer.tensors import tensors_digest
from autoformer.training.config import FinetuneConfig, ParentConfig, TeacherConfig
from autoformer.training.runs import finetune
from autoformer.training.trainer import Surroundings, check_unlabelled

FOLDER = "parent"


def has_parent(recipe: Recipe) -> bool:
    """Whether a run begins with a step of its parent."""
    return recipe.parent is not None and is_one_network(recipe.train.start)


def as_begun(recipe: Recipe, out: Path) -> tuple[Recipe, dict[str, Any]]:
    """The recipe, and its JSON form for the folder `out`: a run that was begun before runs had a parent goes on without."""
    stated, identity = recipe.model_dump(mode="json"), out / IDENTITY
    held = read_json(identity).get("recipe") if identity.exists() else None
    if isinstance(held, Mapping) and "parent" in stated and "parent" not in held and recipe.parent in (None, ParentConfig()):
        del stated["parent"]
        training = recipe.train if recipe.train.cut_images else recipe.train.model_copy(update={"cut_images": 0})
        return recipe.model_copy(update={"parent": None, "train": training}), stated
    return recipe, stated


def told_of_parent(recipe: Recipe, parts: DataParts, out: Path, around: Surroundings) -> Path:
    """The folder of the parent, which knows the classes of the images: as it was given, or after its finetune in `out`."""
    assert recipe.parent is not None
    assert recipe.train.start is not None
    words = recipe.train.start
    if knows_classes(words, parts):
        return Path(words)

    def told(work: str, done: int, total: int, note: str = "") -> None:
        around.progress("finetune parent", done, total, note)

    network, own = unfinetuned(words, parts.labelled, recipe.seed)
    finetune(
        network, own, finetune_of(recipe.parent, recipe.finetune), out / FOLDER, metric=recipe.metric, seed=recipe.seed,
        around=replace(around, progress=told),
    )  # fmt: skip
    return out / FOLDER


def knows_classes(words: str | None, parts: DataParts) -> bool:
    """Whether a start is a folder of one network that was finetuned on the classes of the images."""
    return words is not None and not words.startswith(TIMM) and load_subnet(Path(words))[2] == parts.classes


def unfinetuned(words: str, parts: DataParts, seed: int) -> tuple[Subnet | Classifier, DataParts]:
    """The parent with a new head for the classes of the images."""
    if words.startswith(TIMM):
        network, own, _ = network_for(words, parts, seed)
        return network, own
    subnet, preprocessing, _ = load_subnet(Path(words))
    return without_head(adapt_subnet(subnet, Wanted.by(parts), preprocessing.normalisation)), parts


def finetune_of(parent: ParentConfig, config: FinetuneConfig) -> FinetuneConfig:
    """How the parent is finetuned: as the delivered network is, but shorter, and taught by nobody."""
    changes: dict[str, Any] = {"epochs": parent.epochs, "teacher": None, "patience": None, "fold_search": False}
    if parent.learning_rate is not None:
        changes["learning_rate"] = parent.learning_rate
    return config.model_copy(update=changes)


def begun_with(folder: Path, parts: DataParts, space: SearchSpace) -> Supernet:
    """The supernet of `space` whose largest network is the finetuned parent."""
    return start_from(str(folder), Wanted.by(parts), space=space)


def taught_by(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with the parent as the teacher of every training that names no other."""
    if recipe.parent is None or not recipe.parent.teaches:
        return recipe
    record = record_of_network(folder) or {}
    weights = record.get("weights_digest") or tensors_digest(open_network(str(folder)).network.state_dict())
    return _with_teacher(recipe, recipe.parent, TeacherConfig(network=str(folder), weights=weights))


def to_be_taught(recipe: Recipe) -> Recipe:
    """The recipe as it will be taught, for what is checked before there is a parent."""
    if recipe.parent is None or not recipe.parent.teaches or not has_parent(recipe):
        return recipe
    return _with_teacher(recipe, recipe.parent, TeacherConfig(network=FOLDER))


def check_taught(recipe: Recipe, parts: DataParts) -> None:
    """Raises `RecipeError` for images without labels that a training of a run could not use."""
    taught = to_be_taught(recipe)
    for section, config in (("train", taught.train), ("finetune", taught.finetune)):
        check_unlabelled(parts, config, section)


def _with_teacher(recipe: Recipe, parent: ParentConfig, network: TeacherConfig) -> Recipe:
    told = {name: getattr(parent, name) for name in ("weight", "temperature", "features", "views", "cache_mib")}
    teacher = network.model_copy(update=told)
    changes = {
        name: config.model_copy(update={"teacher": teacher})
        for name, config in (("train", recipe.train), ("finetune", recipe.finetune))
        if config.teacher is None
    }
    return recipe.model_copy(update=changes)
