"""How a network is trained, as recipes say it: `SupernetConfig` for supernets, `FinetuneConfig` for single networks.

The result of a training follows from its config, its data and its seed alone. How many processes share a step, how many load
images, how often is saved and what is shown changes speed and files, never weights.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from autoformer.architecture import INIT_STD, PUBLISHED, Architecture
from autoformer.errors import ArchitectureError
from autoformer.settings import Settings
from autoformer.training.augment import AugmentConfig

# Of a `TrainConfig`: settings that change speed and files, and no weights.
WITHOUT_EFFECT = ("workers", "keep_checkpoints", "save_minutes", "log_every", "tensorboard", "compile")


USUAL_CURRICULUM, USUAL_CUT_IMAGES = 1 / 3, 1024  # of the training of a supernet that starts from one pretrained network
CACHE_MIB = 2048
# Settings of a `TeacherConfig` and a `ParentConfig` that came later, as if they were not there.
LATER = {"classes": "text", "weights": None, "features": None, "views": None, "cache_mib": CACHE_MIB}
VIEWS = (
    "train on this many augmented forms of each image, in turns, and keep the teacher's logits of them in files, so that it is "
    "not run at every step; empty: new forms at every epoch, and the teacher runs"
)
LIMIT = "largest size of those files; a training that needs more is refused before it begins"


class TeacherConfig(Settings):
    """A network whose predictions the trained ones learn beside the labels (Hinton et al., arXiv 1503.02531)."""

    network: str = Field(description="timm:NAME, timm:NAME@FILE with its weights, or the folder of a network of ours")
    weight: float = Field(0.5, gt=0, le=1, description="of the teacher's part of the loss; the labels have the rest")
    temperature: float = Field(1.0, gt=0, description="softens both predictions; the loss is scaled by its square")
    hard: bool = Field(False, description="learn the teacher's first prediction (DeiT) instead of its probabilities")
    classes: str = Field(
        "text", description="order of the classes of a timm teacher: text (1, 10, 2), natural (1, 2, 10; timm's), or a class map"
    )

    weights: str | None = Field(
        None, description="digest of its weights: others are refused, and its folder may be moved without being another teacher"
    )
    features: float | None = Field(
        None,
        gt=0,
        description="weight of a third part of the loss: how far the features before the classifier are apart; empty: 0",
    )
    views: int | None = Field(None, gt=0, description=VIEWS)
    cache_mib: int = Field(CACHE_MIB, gt=0, description=LIMIT)

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without later settings where they say nothing new, so that runs from before they existed are gone on with."""
        return without_later(write(self))

    @property
    def identity(self) -> dict[str, Any]:
        """What of it decides the weights of those it teaches; JSON."""
        return self.model_dump(mode="json", exclude={"cache_mib", *(("network",) if self.weights else ())})


class Differences(NamedTuple):
    """What trainings of supernets and of single networks differ in; the defaults are what holds where nothing is set."""

    layer_decay: float | None = None
    patience: int | None = None
    watches_search: bool = True  # the search part is scored now and then
    distill: bool = False
    freeze_unused: bool = False


class TrainConfig(Settings):
    """What all trainings share. The defaults suit small images and a CPU."""

    epochs: int = Field(100, gt=0, description="passes over the train part")
    batch_size: int = Field(128, gt=0, description="images per step, all processes together")
    accumulate: int = Field(1, gt=0, description="pieces a process cuts its share of a step into, to save memory")
    repeats: int = Field(
        1, gt=0, description="repeated augmentation: copies of an image in an epoch of unchanged length (DeiT: 3)"
    )
    optimizer: str = Field("adamw", description="any name that timm.optim.list_optimizers() gives")
    learning_rate: float = Field(2e-3, gt=0, description="peak")
    learning_rate_images: int | None = Field(
        None, gt=0, description="the rate is for steps of this many images, scaled in proportion; empty: for the batch as it is"
    )
    min_learning_rate: float = Field(1e-5, ge=0, description="at the end of the cosine")
    warmup_learning_rate: float = Field(1e-5, ge=0, description="at the start of the warm-up")
    warmup_epochs: float = Field(5.0, ge=0, description="linear warm-up; at most half of all steps")
    schedule: Literal["step", "epoch"] = Field(
        "step", description="the rate changes with every step; epoch: between epochs and one epoch late, as the official code"
    )
    weight_decay: float = Field(0.05, ge=0, description="biases, norms, positions and the class token are exempt")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="share of the probability that is spread over all classes")
    mixup: float = Field(0.0, ge=0, description="timm's mixup alpha; 0 is off")
    cutmix: float = Field(0.0, ge=0, description="timm's cutmix alpha; 0 is off")
    mix_probability: float = Field(1.0, gt=0, le=1, description="share of the steps that mix")
    drop_path_rate: float = Field(0.0, ge=0, lt=1, description="stochastic depth of the deepest block")
    clip_norm: float | None = Field(1.0, gt=0, description="largest norm of the gradient; empty: no clipping")
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="keep a moving average of the weights and end with it; timm's warm-up of the decay"
    )
    teacher: TeacherConfig | None = Field(None, description="a network to learn from")
    amp: Literal["auto", "off", "bfloat16", "float16"] = Field(
        "auto", description="arithmetic of the matrix products; auto: bfloat16 where the device is a GPU that has it"
    )
    max_nonfinite: int = Field(
        10, gt=0, description="steps in a row whose gradient is not finite (each is skipped) before the training stops"
    )
    checkpoint_activations: bool = Field(False, description="recompute blocks in the backward pass: slower, less memory")
    compile: bool = Field(False, description="torch.compile of the blocks; worth it on a GPU")
    augment: AugmentConfig = Field(default_factory=lambda: AugmentConfig())
    workers: int = Field(0, ge=0, description="loader processes per training process")
    evaluate_every: int = Field(10, gt=0, description="epochs between scores on the search part")
    keep_checkpoints: int = Field(2, gt=0, description="the newest checkpoints kept while training")
    save_minutes: float = Field(10.0, gt=0, description="time between checkpoints within an epoch; every epoch ends with one")
    log_every: int = Field(50, gt=0, description="steps between lines of log.jsonl")
    tensorboard: bool = Field(False, description="also write what log.jsonl holds for TensorBoard")

    @field_validator("optimizer")
    @classmethod
    def _known(cls, value: str) -> str:
        from difflib import get_close_matches

        from timm.optim import list_optimizers

        names = list_optimizers()
        if value not in names:
            near = ", ".join(get_close_matches(value, names, 3, 0.0))
            raise ValueError(f"timm has no optimizer {value[:60]!r}; near are {near}")
        return value

    @model_validator(mode="after")
    def _mixing_pairs_images(self) -> TrainConfig:
        if (self.mixup or self.cutmix) and self.batch_size % (2 * self.accumulate):
            raise ValueError(
                f"mixup and cutmix pair images: batch_size must be a multiple of {2 * self.accumulate}, got {self.batch_size}"
            )
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} cannot be cut into {self.accumulate} equal pieces")
        return self

    @model_validator(mode="after")
    def _a_teacher_may_know_the_views(self) -> TrainConfig:
        if (reason := self.against_views) is not None:
            raise ValueError(reason)
        return self

    @property
    def against_views(self) -> str | None:
        """Why the teacher's logits cannot be kept for views, where they are to be."""
        views = None if self.teacher is None else self.teacher.views
        if views is not None and (self.mixup or self.cutmix):
            return (
                "teacher.views keeps the teacher's logits of single images, which mixup and cutmix mix; set mixup and cutmix "
                "to 0, or leave teacher.views out"
            )
        if views is not None and views < self.repeats:
            return (
                f"teacher.views={views} is less than repeats={self.repeats}, so an epoch would hold a form of an image twice; "
                f"raise it to {self.repeats} or more"
            )
        if views is not None and self.teacher is not None and self.teacher.features is not None:
            return "teacher.views keeps the teacher's logits and not its features; leave teacher.features or teacher.views out"
        return None

    @property
    def peak_learning_rate(self) -> float:
        """The rate after the warm-up, scaled to the batch where the recipe says so."""
        return self.learning_rate * (self.batch_size / self.learning_rate_images if self.learning_rate_images else 1.0)

    @property
    def differences(self) -> Differences:
        """The settings that one kind of training has and the other lacks."""
        return Differences()

    @property
    def identity(self) -> dict[str, Any]:
        """What of it decides the weights; JSON."""
        found = self.model_dump(mode="json", exclude=set(WITHOUT_EFFECT))
        return found if self.teacher is None else {**found, "teacher": self.teacher.identity}


class SubnetsConfig(Settings):
    """Which networks of the space a step trains."""

    strategy: Literal["uniform", "sandwich", "stratified", "preferred"] = Field(
        "uniform",
        description="uniform: one, choice by choice (the paper); sandwich: largest, smallest and some between (BigNAS); "
        "stratified: one, uniform over ranges of parameters; preferred: one of a given list",
    )
    between: int = Field(2, ge=0, description="networks of a sandwich beside the largest and the smallest")
    strata: int = Field(8, gt=1, description="ranges of parameters, equally wide, of the stratified strategy")
    preferred: tuple[str | dict[str, Any], ...] = Field((), description="published names or architectures as JSON objects")
    distill: bool = Field(
        False, description="sandwich: all but the largest learn the largest one's probabilities, not the labels"
    )
    freeze_unused: bool = Field(
        False, description="weights outside a step's networks stay as they are; else momentum and decay move them (official code)"
    )
    curriculum: float | None = Field(
        None,
        ge=0,
        le=1,
        description="share of the training over which small networks are let in, the largest being first; 0: all from the "
        "beginning; empty: a third where the start is one pretrained network, else 0",
    )

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `curriculum` where it says nothing, so that runs from before it existed are gone on with."""
        found: dict[str, Any] = write(self)
        return {key: value for key, value in found.items() if key != "curriculum" or value is not None}

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> SubnetsConfig:
        if self.distill and self.strategy != "sandwich":
            raise ValueError(f"distill needs the largest network in every step: strategy sandwich, not {self.strategy}")
        if bool(self.preferred) != (self.strategy == "preferred"):
            raise ValueError("strategy preferred and a list of preferred architectures belong together")
        for architecture in self.preferred:
            read_preferred(architecture)
        return self


class SupernetConfig(TrainConfig):
    """Training of a supernet."""

    subnets: SubnetsConfig = Field(default_factory=lambda: SubnetsConfig())
    start: str | None = Field(
        None,
        description="weights to start from: timm:NAME, timm:NAME@FILE, official:FILE, or the folder of a trained supernet "
        "or of a plain network",
    )
    cut_images: int | None = Field(
        None,
        ge=0,
        description="training images, evenly spaced, by which the weights of one pretrained network are turned and ordered "
        "before training (no labels); 0: by the weights alone; empty: 1024 where the start is one pretrained network, else 0",
    )
    init_std: float = Field(
        INIT_STD, gt=0, description="of fresh weights; the paper's 0.02 suits widths from 192, narrow ones need more"
    )

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `cut_images` where it says nothing, so that runs from before it existed are gone on with."""
        found: dict[str, Any] = write(self)
        return {key: value for key, value in found.items() if key != "cut_images" or value is not None}

    @property
    def differences(self) -> Differences:
        return Differences(distill=self.subnets.distill, freeze_unused=self.subnets.freeze_unused)


class FinetuneConfig(TrainConfig):
    """Training of one network."""

    layer_decay: float | None = Field(
        None, gt=0, le=1, description="factor of the learning rate from each block to the one before it"
    )
    patience: int | None = Field(
        None, gt=0, description="stop when the score on the search part has not risen for this many epochs, and keep the best"
    )
    fold_search: bool = Field(
        False, description="train on the search part too, once every choice is made; nothing is left to stop early by"
    )

    @model_validator(mode="after")
    def _something_is_left_to_stop_by(self) -> FinetuneConfig:
        if self.fold_search and self.patience is not None:
            raise ValueError("patience watches the search part, which fold_search trains on; choose one")
        return self

    @property
    def differences(self) -> Differences:
        return Differences(layer_decay=self.layer_decay, patience=self.patience, watches_search=not self.fold_search)


class ParentConfig(Settings):
    """What a run does with the one pretrained network it starts from, before anything is cut out of it."""

    epochs: int = Field(
        10, gt=0, description="of its own finetune, which else is as the section finetune says; none where it knows the classes"
    )
    learning_rate: float | None = Field(None, gt=0, description="peak, of its own finetune; empty: that of the section finetune")
    teaches: bool = Field(True, description="it is the teacher of the sections train and finetune where they name no other")
    weight: float = Field(0.5, gt=0, le=1, description="of its part of their loss")
    temperature: float = Field(1.0, gt=0, description="softens predictions of both")
    features: float | None = Field(None, gt=0, description="weight of learning its features too; empty: they are not learned")
    views: int | None = Field(None, gt=0, description=f"as a teacher: {VIEWS}")
    cache_mib: int = Field(CACHE_MIB, gt=0, description=LIMIT)

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without later settings where they say nothing new, so that runs from before they existed are gone on with."""
        return without_later(write(self))


def without_later(values: dict[str, Any]) -> dict[str, Any]:
    """Without the settings of `LATER` that are as if they were not there."""
    return {key: value for key, value in values.items() if key not in LATER or value != LATER[key]}


def read_preferred(architecture: str | dict[str, Any]) -> Architecture:
    """The architecture of a published name or a JSON object. Raises `ArchitectureError`."""
    if isinstance(architecture, dict):
        return Architecture.from_dict(architecture)
    if architecture not in PUBLISHED:
        raise ArchitectureError(f"no published network is called {architecture[:60]!r}; known are {', '.join(PUBLISHED)}")
    return PUBLISHED[architecture]
