"""What a training starts from: fresh weights, a supernet that exists, or a single network with a new head."""

from __future__ import annotations

from pathlib import Path

from autoformer.adapt import Normalisation, adapt_subnet
from autoformer.checkpoint import read_json
from autoformer.cli.recipe import Recipe
from autoformer.data import DataConfig, DataParts, load_parts, parts_of_record
from autoformer.errors import DataError
from autoformer.preprocessing import Preprocessing
from autoformer.pretrained import start_from, subnet_from_timm
from autoformer.space import SearchSpace
from autoformer.subnet import Subnet
from autoformer.subnet_folder import load_subnet
from autoformer.supernet import Supernet
from autoformer.timm_models import PREFIX


def beginning(recipe: Recipe, parts: DataParts) -> tuple[SearchSpace, Supernet | None]:
    """The space, and the supernet to start from if the recipe names one; it brings its space unless the recipe has one too."""
    if recipe.train.start is None:
        return recipe.space.make(parts), None
    preprocessing = parts.preprocessing
    supernet = start_from(
        recipe.train.start,
        space=recipe.space.make(parts) if recipe.space.model_fields_set else None,
        num_classes=len(parts.classes),
        image_size=preprocessing.image_size,
        in_chans=preprocessing.in_chans,
        normalisation=normalisation_of(preprocessing),
    )
    return supernet.space, supernet


def network_and_parts(
    words: str, data: str | None, image_size: int | None, group_by: str | None = None
) -> tuple[Subnet, DataParts, bool]:
    """The network of a folder or of `timm:NAME[@FILE]`, its images, and whether its head is new.

    Images are those it was made from unless `data` names others; it is adapted to their classes and channels, and to images
    of `image_size` pixels (None: the size it takes). Raises `DataError` when a network of timm comes without data.
    """
    if words.startswith(PREFIX):
        if data is None:
            raise DataError(f"{words} brings no images; give --data")
        name, _, file = words.removeprefix(PREFIX).partition("@")
        checkpoint = Path(file).expanduser() if file else None
        plain = subnet_from_timm(name, checkpoint=checkpoint)
        parts = load_parts(DataConfig(source=data, group_by=group_by, image_size=image_size or plain.patch_embed.img_size[0]))
        network = subnet_from_timm(
            name,
            num_classes=len(parts.classes),
            image_size=parts.preprocessing.image_size,
            in_chans=parts.preprocessing.in_chans,
            checkpoint=checkpoint,
            normalisation=normalisation_of(parts.preprocessing),
        )
        return network, parts, len(parts.classes) != plain.num_classes
    network, preprocessing, classes = load_subnet(Path(words))
    record = read_json(Path(words) / "subnet.json", "data")["data"]
    if data is None and image_size is None and group_by is None:
        return network, parts_of_record(record), False
    own = parts_of_record(record) if data is None else None
    changes = {"source": data, "image_size": image_size or preprocessing.input_size, "group_by": group_by}
    config = (own.config if own is not None else DataConfig()).model_copy(
        update={k: v for k, v in changes.items() if v is not None}
    )
    parts = load_parts(config)
    new_head = parts.classes != classes
    if new_head and len(parts.classes) == len(classes):
        network.reset_classifier(len(classes))
    adapted = adapt_subnet(
        network,
        num_classes=len(parts.classes),
        image_size=parts.preprocessing.image_size,
        in_chans=parts.preprocessing.in_chans,
        trained_with=normalisation_of(preprocessing),
        normalisation=normalisation_of(parts.preprocessing),
    )
    return adapted, parts, new_head


def normalisation_of(preprocessing: Preprocessing) -> Normalisation:
    """What its pixels are normalised with."""
    return Normalisation(preprocessing.mean, preprocessing.std)
