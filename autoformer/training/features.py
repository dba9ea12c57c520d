"""Learning a teacher's features: what its classifier reads, beside what it predicts.

Features are the input of a network's classifier, pooled tokens or the class token, taken on their way by a hook, so that no
network computes twice. Pupil and teacher may differ in width: a linear `Projector` stands between while the pupil trains, and
is left out of all that is written but the checkpoints of the training itself.

Letters: B images, E width of the pupil, T tokens that its classifier reads, F features of the teacher.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoformer.cost import features_of
from autoformer.errors import TrainingError
from autoformer.networks.subnet import Subnet
from autoformer.networks.supernet import Supernet


def classifiers_of(network: nn.Module) -> list[nn.Module]:
    """The layers that turn features into logits; a distilled network of timm has two, and others may have none."""
    found: Any = network.head if isinstance(network, Supernet) else getattr(network, "get_classifier", list)()
    layers = list(found) if isinstance(found, list | tuple) else [found]
    return [layer for layer in layers if isinstance(layer, nn.Module) and not isinstance(layer, nn.Identity)]


def with_features(network: nn.Module, answer: Callable[[], Tensor]) -> tuple[Tensor, Tensor | None]:
    """Logits and features, [B, classes] and [B, T·E], of `answer`, a call of `network`; no features where it has no such thing.

    Maps of features are averaged over their places, and so are the features of several classifiers.
    """
    taken: list[Tensor] = []
    hooks = [layer.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0])) for layer in classifiers_of(network)]
    try:
        logits = answer()
    finally:
        for hook in hooks:
            hook.remove()
    found = [one.mean((2, 3)) if one.ndim == 4 else one for one in taken]
    if not found or len(found) > len(hooks) or any(one.shape != found[0].shape or one.ndim != 2 for one in found):
        return logits, None
    return logits, found[0] if len(found) == 1 else torch.stack(found).mean(0)


def features_shown(network: nn.Module, images: Tensor) -> int | None:
    """How many features an ordinary network shows for each of the images, tried in evaluation mode; None: it has none."""
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            _, found = with_features(network, partial(network, images))
    finally:
        network.train(training)
    return None if found is None else found.shape[1]


class Projector(nn.Module):
    """A linear map from the features of a pupil to those of its teacher, without a bias.

    The leading columns of each token serve narrower networks, as in a supernet's classifier.
    """

    def __init__(self, width: int, tokens: int, features: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(random.Random(f"{seed}/projector").getrandbits(31))
        weight = torch.randn(features, tokens * width, generator=generator, dtype=torch.float64) / (tokens * width) ** 0.5
        self.tokens = tokens
        self.weight = nn.Parameter(weight.to(torch.get_default_dtype()))

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, T·E] as the teacher's, [B, F]."""
        width = features.shape[1] // self.tokens
        return F.linear(features, self.weight.unflatten(1, (self.tokens, -1))[..., :width].flatten(1))

    def used(self, width: int) -> Tensor:
        """Which numbers of the weight a network of this width uses."""
        mask = torch.zeros_like(self.weight, dtype=torch.bool)
        mask.unflatten(1, (self.tokens, -1))[..., :width] = True
        return mask


class Pupil(nn.Module):
    """A network with its projector, which train together and are shared by processes together."""

    def __init__(self, network: nn.Module, projector: Projector) -> None:
        super().__init__()
        self.network, self.projector = network, projector

    def forward(self, *inputs: Any, shows: bool = True) -> tuple[Tensor, Tensor | None]:
        """The logits of the network, and its features as the teacher's [B, F] where it `shows` them."""
        if not shows:
            return self.network(*inputs), None
        logits, features = with_features(self.network, partial(self.network, *inputs))
        assert features is not None, "tried when the training began"
        return logits, self.projector(features)


def pupil_of(network: nn.Module, images: Tensor, features: int, seed: int) -> Pupil:
    """The network with a fresh projector to so many features; `images` are one or more as a network that is not ours takes them.

    Raises `TrainingError` for a network without features.
    """
    tokens, width = 1, None
    if isinstance(network, Supernet):
        tokens, width = features_of(network.space), network.space.stored_embed_dim
    else:
        width = network.head_hidden_size if isinstance(network, Subnet) else features_shown(network, images)
    if width is None:
        raise TrainingError(
            f"{type(network).__name__} has no features before its classifier that could learn the teacher's; leave "
            "teacher.features out"
        )
    return Pupil(network, Projector(width, tokens, features, seed).to(images))


def apart(ours: Tensor, theirs: Tensor) -> Tensor:
    """The cosine distance of features [B, F], 0 for the same direction and 2 for the opposite one, on average over the images."""
    precise = torch.promote_types(ours.dtype, torch.float32)
    return (1 - F.cosine_similarity(ours.to(precise), theirs.to(precise), dim=1)).mean()
