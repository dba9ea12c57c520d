"""Which of the shipped recipes suits a data set: by the size and number of its images, and whether pretrained weights are there.

    shorter side, median     train images     recipe
    below 24 px              any              quickstart: takes the size of the images
    24 to 47 px              any              cifar: 32 px
    48 px and more           any              photos-pretrained, where a pretrained network can be had: about 126 px
                                              images-64px otherwise: 64 px
    160 px and more          from 100,000     imagenet-tiny, where none can be had: 224 px, as published

Recipes are written for thousands of images. Where there are so few that an epoch would have less than 8 steps, the batch is made
smaller: weights learn by steps.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoformer.cli.chain.begun_from import fitting_size, patch_of
from autoformer.cli.chain.recipe import batch_for
from autoformer.data.parts import DataParts
from autoformer.data.sizes import TrainingSize, configured_size, typical_words
from autoformer.files import IDENTITY, TIMM, believing, read_json

PUBLISHED_FROM = 100_000  # train images, from which a training of the published length pays
SECTIONS = ("train", "finetune")
NONE = "no pretrained network is stored here and the Hub does not answer"
TO_HAVE_ONE = (
    "--from timm:NAME@FILE starts from a pretrained network, like timm:vit_tiny_patch16_224@model.safetensors with the file of "
    "huggingface.co/timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
)
FEW = 1000  # train images of photographs, below which training from nothing is a poor way
PHOTOGRAPHS = ("images-64px", "imagenet-tiny")  # what they get from nothing
# Vision transformers of timm that start a supernet, as the Hub stores them: that of the recipe, then by size.
STARTS = (
    "vit_small_patch14_reg4_dinov2.lvd142m", "vit_tiny_patch16_224.augreg_in21k_ft_in1k", "deit_tiny_patch16_224.fb_in1k",
    "vit_small_patch16_224.augreg_in21k_ft_in1k", "deit_small_patch16_224.fb_in1k",
)  # fmt: skip
EXAMPLE_LIMIT = "60%"
ASKED_S = 3.0  # until the Hub has to say that it has them


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """What the choice has to know of a recipe; a test compares it with the file."""

    image_size: int | None  # pixels; None: that of the images
    batch_size: int  # of train and finetune


SHIPPED = {
    "quickstart": Shipped(image_size=None, batch_size=64),
    "cifar": Shipped(image_size=32, batch_size=128),
    "images-64px": Shipped(image_size=64, batch_size=128),
    "photos-pretrained": Shipped(image_size=126, batch_size=64),
    "imagenet-tiny": Shipped(image_size=224, batch_size=1024),
}


@dataclass(frozen=True, kw_only=True)
class RecipeChoice:
    """A recipe for a data set."""

    name: str  # of a shipped recipe
    reason: str  # one line
    start: str | None  # the pretrained network to start from, timm:NAME; None: from nothing
    image_size: int | None  # pixels that are trained at; None: those of the images
    settings: tuple[str, ...]  # KEY=VALUE, what this data set changes of the recipe
    advice: str = ""  # what would be better, and how to have it

    def size_for(self, parts: DataParts) -> TrainingSize:
        """The size that these images are trained at by this recipe; what the settings of the data ask for comes first."""
        asked = configured_size(parts)
        if parts.config.image_size is not None or self.image_size is None:
            return asked
        who = self.start or f"recipe {self.name}"
        return TrainingSize(
            pixels=self.image_size, reason=f"{who} takes {self.image_size} px; {typical_words(parts.typical_side)}"
        )

    def command(self, source: str, given: Sequence[str] = ()) -> str:
        """What to type next, for the data of this source, with settings that were `given` as KEY=VALUE: it chooses alike."""
        words = ["autoformer", "run", "--data", source, "--max-latency", EXAMPLE_LIMIT]
        return shlex.join([*words, *(word for setting in given for word in ("--set", setting))])


def choose_recipe(typical_side: int, train_images: int, *, start: str | None = None, at_most: bool = False) -> RecipeChoice:
    """The recipe for images of this median shorter side, in pixels; `at_most`: those that cannot be read will be left out.

    `start` is a pretrained network that can be had, which photographs alone take: small images would be enlarged to its size.
    """
    seen = f"{'up to ' if at_most else ''}{train_images:,} train images, shorter side {typical_side} px (median)"
    if typical_side < 24:
        name, why = "quickstart", "images this small need small networks"
    elif typical_side < 48:
        name, why = "cifar", "it is for images of about 32 px"
    elif start is not None:
        name, why = "photos-pretrained", f"it is for photographs, and starts from {start}"
    elif typical_side >= 160 and train_images >= PUBLISHED_FROM:
        name, why = "imagenet-tiny", f"there are enough for a training as published, and {NONE}"
    else:
        name, why = "images-64px", f"it is for photographs, from nothing, since {NONE}"
    few = f"{train_images:,} images are few to learn from nothing: " if train_images < FEW else ""
    shipped, start = SHIPPED[name], start if name == "photos-pretrained" else None
    batch = batch_for(shipped.batch_size, train_images)
    return RecipeChoice(
        name=name,
        advice=f"{few}{TO_HAVE_ONE}" if name in PHOTOGRAPHS else "",
        reason=f"{seen}: {why}",
        start=start,
        image_size=shipped.image_size if start is None else fitting_size(shipped.image_size, patch_of(start)),
        settings=() if batch == shipped.batch_size else tuple(f"{section}.batch_size={batch}" for section in SECTIONS),
    )


def recipe_for(parts: DataParts, *, start: str | None = None, begun: Path | None = None) -> RecipeChoice:
    """The recipe for the images of these parts; photographs start from a pretrained network where one can be had.

    `begun` is the folder of a run of these images that goes on: it keeps its start, whatever can be had today.
    """
    side, images = parts.typical_side or parts.preprocessing.image_size, len(parts.train)
    at_most = parts.config.unreadable == "skip"
    choice = choose_recipe(side, images, start=start, at_most=at_most)
    if start is not None or choice.name not in PHOTOGRAPHS:
        return choice
    had = pretrained_start() if begun is None else start_of(begun)
    return choice if had is None else choose_recipe(side, images, start=had, at_most=at_most)


def start_of(run: Path) -> str | None:
    """What a run was begun from, as its folder states it; None: nothing. Raises `CheckpointError` for a damaged folder."""
    with believing(run / IDENTITY, "choose another --out"):
        stated = read_json(run / IDENTITY, "recipe")["recipe"]["train"].get("start")
        return None if stated is None else str(stated)


def pretrained_start() -> str | None:
    """A pretrained network that is stored here, or that the Hub offers at the moment; nothing is fetched yet."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    from autoformer.pretrained.hub import WEIGHTS

    if (stored := stored_start()) is not None:
        return stored
    try:
        get_hf_file_metadata(hf_hub_url(f"timm/{STARTS[0]}", WEIGHTS[0]), timeout=ASKED_S)
    except Exception:  # offline, refused or gone: whatever the Hub's library raises
        return None
    return f"{TIMM}{STARTS[0]}"


def stored_start(cache: Path | None = None) -> str | None:
    """A pretrained network whose weights lie in the cache of the Hub already, as `timm:NAME`; nothing is fetched.

    `cache` is the folder of the cache; None: where the Hub's library keeps it.
    """
    from autoformer.pretrained.hub import is_stored

    return next((f"{TIMM}{name}" for name in STARTS if is_stored(f"timm/{name}", cache)), None)
