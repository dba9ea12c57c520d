"""A network that the trained ones learn from beside the labels, and the losses of learning from a network."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoformer.data.classes import are_the_same, numbers_of, order_asked
from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import CheckpointError, DataError
from autoformer.evaluate import resize_images
from autoformer.pretrained.named_network import open_network
from autoformer.tensors import tensors_digest
from autoformer.training.config import TeacherConfig
from autoformer.training.features import features_shown, with_features


class Teacher:
    """A trained network in evaluation mode, whose weights and running statistics never move."""

    def __init__(self, config: TeacherConfig, preprocessing: Preprocessing, classes: Sequence[str], device: torch.device) -> None:
        """Raises `DataError` when it knows other classes, `CheckpointError` when it cannot be loaded."""
        self.config = config
        named = open_network(config.network)
        if config.weights not in (None, tensors_digest(named.network.state_dict())):
            raise CheckpointError(
                f"teacher {config.network} has other weights than those of teacher.weights; give the network that taught "
                "before, or leave the setting out"
            )
        known, (mean, std) = named.classes, named.preprocessing.normalisation
        order: Sequence[str] = classes
        if known is None:
            order = order_asked(config.classes, classes, "the data")
        elif are_the_same(classes, known):
            order = known
        elif len(classes) == len(known):
            strange = next(name for name in known if name not in classes)
            raise DataError(
                f"teacher {config.network} knows class {strange!r} where the data have another; teach it their classes"
            )
        if named.num_classes != len(classes):
            raise DataError(f"teacher {config.network} knows {named.num_classes} classes, the data have {len(classes)}")
        if len(order) != len(classes):
            raise DataError(f"the class map {config.classes} names {len(order)} classes, the data have {len(classes)}")
        if len(mean) != preprocessing.in_chans:
            raise DataError(f"teacher {config.network} takes {len(mean)} channels, the data have {preprocessing.in_chans}")
        self.size = named.preprocessing.input_size
        self.places = torch.tensor(numbers_of(classes, order), device=device)  # of the classes among its outputs
        self.network: nn.Module = named.network.to(device).eval().requires_grad_(False)
        ours = torch.tensor([preprocessing.mean, preprocessing.std], device=device).view(2, 1, -1, 1, 1)
        theirs = torch.tensor([mean, std], device=device).view(2, 1, -1, 1, 1)
        self.factor, self.shift = ours[1] / theirs[1], (ours[0] - theirs[0]) / theirs[1]
        self.features = 0  # that it shows for an image, where they are asked for
        if config.features is not None:
            found = features_shown(self.network, torch.zeros(1, len(mean), self.size, self.size, device=device))
            if found is None:
                raise CheckpointError(
                    f"teacher {config.network} has no features before its classifier; leave teacher.features out"
                )
            self.features = found

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Logits [B, classes] for images as the trained network sees them, before any resizing; [B, C, H, W]."""
        logits = cast(Tensor, self.network(self._taken(images)))
        return logits[:, self.places].float()

    @torch.no_grad()
    def with_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and its features [B, F], for images as `__call__` takes them."""
        logits, found = with_features(self.network, partial(self.network, self._taken(images)))
        assert found is not None, "tried when it was made"
        return logits[:, self.places].float(), found.float()

    def _taken(self, images: Tensor) -> Tensor:
        """Images as this network takes them."""
        return resize_images(images.to(self.factor.dtype) * self.factor + self.shift, self.size)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What its logits follow from, beside the images; JSON."""
        return {
            "weights": tensors_digest(self.network.state_dict()),
            "size": self.size,
            "outputs": self.places.tolist(),
            "normalisation": [self.factor.flatten().tolist(), self.shift.flatten().tolist()],
        }

    def loss(self, logits: Tensor, taught: Tensor) -> Tensor:
        """How far `logits` are from the teacher's `taught`."""
        return imitation(logits, taught, self.config.temperature, hard=self.config.hard)


def imitation(logits: Tensor, taught: Tensor, temperature: float = 1.0, *, hard: bool = False) -> Tensor:
    """Cross entropy with another network's logits [B, classes]: its probabilities, or its first prediction.

    With its probabilities the Kullback-Leibler divergence, times the temperature squared so that gradients keep their size.
    """
    if hard:
        return F.cross_entropy(logits, taught.argmax(-1))
    target = F.softmax(taught.float() / temperature, -1)
    return F.kl_div(F.log_softmax(logits.float() / temperature, -1), target, reduction="batchmean") * temperature**2
