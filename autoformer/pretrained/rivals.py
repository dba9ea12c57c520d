"""Rivals of a searched network: small CNNs and hybrids of timm, and the next smaller network of the parent's own family.

A race finetunes finalists and rivals alike inside one limit on latency. Here stands who is asked by default, at which image
sizes, and how the largest size that keeps the limit is found with at most three measurements.

Of CIFAR-10, 8 passes over 4,000 images from scratch, resnet10t made the most (59 % at 32 px in 0.6 ms, 64 % at 64 px in 1.8 ms)
and mobilenetv4_conv_small 43 % and 45 % (0.5 and 0.6 ms); lcnet_050 (0.15 ms, 22 %) and regnetx_002 (0.7 ms, 40 %) were left out.
So plain convolutions stand beside the mobile networks, and images are enlarged to twice their size. The ms are the least seen in
ONNX Runtime with one thread; within a list they grow by about 4 at 32 px, 12 at 64 px and 9 at 128 px.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import timm
from timm.models import get_pretrained_cfg

from autoformer.files import TIMM
from autoformer.pretrained.classifier import SCRATCH, is_from_scratch
from autoformer.pretrained.timm_models import name_and_file

STRIDE = 32  # pixels of the image to one of the last features, in every network below
LARGEST_SIZE = 224  # pixels; images are not enlarged beyond
MOST_MEASURED = 3  # image sizes of one rival
FEWEST_PIXELS = 16  # a side; of smaller images a network of this stride makes nothing that enlarging would mend
# From this side of an image on: timm's names and the tag of its weights, the most promising first.
RIVALS: Mapping[int, Mapping[str, str]] = {
    FEWEST_PIXELS: {
        "resnet18": "a1_in1k",
        "resnet10t": "c3_in1k",
        "hgnetv2_b0": "ssld_stage2_ft_in1k",
        "mobilenetv4_conv_small": "e2400_r224_in1k",
        "edgenext_xx_small": "in1k",
        "mobilenetv4_conv_small_050": "e3000_r224_in1k",
    },
    128: {
        "mobilenetv4_conv_medium": "e500_r224_in1k",
        "hgnetv2_b0": "ssld_stage2_ft_in1k",
        "efficientvit_b0": "r224_in1k",
        "mobilenetv4_conv_small": "e2400_r224_in1k",
        "edgenext_xx_small": "in1k",
        "mobilenetv4_conv_small_050": "e3000_r224_in1k",
    },
}
SIZES = ("giant", "huge", "large", "base", "medium", "small", "tiny")  # what timm calls sizes of one family, falling


def default_rivals(image_size: int, pretrained: bool) -> tuple[str, ...]:
    """Words for the networks that race by default on images of this side, the most promising first; none below 16 px.

    `pretrained` is what the parent is: rivals start from timm's weights, which are downloaded, or from fresh ones.
    """
    names = next((RIVALS[side] for side in sorted(RIVALS, reverse=True) if image_size >= side), {})
    return tuple(f"{TIMM}{name}.{tag}" if pretrained else f"{TIMM}{name}@{SCRATCH}" for name, tag in names.items())


def sizes_for(image_size: int) -> tuple[int, ...]:
    """Image sizes at which a rival may be tried, rising multiples of 32 px: from that of the search's networks, rounded up, to
    its double.

    Images are given at 224 px at most; where the search's networks take more, that size alone is tried.
    """
    own = -(-image_size // STRIDE) * STRIDE
    return tuple(range(own, max(own, min(2 * own, LARGEST_SIZE)) + 1, STRIDE))


def largest_within(limit_ms: float, times: Mapping[int, float], sizes: Sequence[int]) -> int | None:
    """The image size to measure next or, where `times` (ms, by size) holds it already, the largest found that keeps the limit.

    None when a rival does not keep it at the smallest of the rising `sizes`. Asked again after each measurement, it is done after
    three: the smallest, the largest, and what a line in the number of pixels through these two promises. An infinite time says
    that a size is impossible.
    """
    measured = [size for size in sizes if size in times]
    kept = [size for size in measured if times[size] <= limit_ms]
    if not kept:
        return None if sizes[0] in measured else sizes[0]
    best = kept[-1]
    missed = next((size for size in measured if size > best), None)
    if best == sizes[-1] or len(measured) >= MOST_MEASURED:
        return best
    if missed is None:
        return sizes[-1]
    slope = (times[missed] - times[best]) / (missed**2 - best**2)  # ms for a pixel
    promising = [size for size in sizes if best < size < missed and times[best] + slope * (size**2 - best**2) <= limit_ms]
    return promising[-1] if promising else best


def smaller_sibling(words: str) -> str | None:
    """The next smaller pretrained network of the family of `words`, which name one of timm's; None where timm lists none.

    Patch, image size and everything else in the name stay. So does the tag of the weights where there are such; else the
    sibling has timm's usual ones. `timm:` stays in front; weights of a file are not its sibling's.
    """
    name = name_and_file(words)[0]
    family, _, tag = name.partition(".")
    if is_from_scratch(words) or not timm.is_model(family) or (tag and name not in timm.list_pretrained(f"{family}.*")):
        return None
    parts = family.split("_")
    place = next((index for index, part in enumerate(parts) if part in SIZES), None)
    if place is None:
        return None
    prefix = TIMM if words.startswith(TIMM) else ""
    for size in SIZES[SIZES.index(parts[place]) + 1 :]:
        smaller = "_".join([*parts[:place], size, *parts[place + 1 :]])
        if found := _weights_like(name, smaller):
            return f"{prefix}{found}"
    return None


def _weights_like(parent: str, smaller: str) -> str | None:
    """timm's network `smaller` with the tag of `parent`, or else a tag that timm has for images of the same size."""
    ours = get_pretrained_cfg(parent)
    offered = {name: get_pretrained_cfg(name) for name in timm.list_pretrained(f"{smaller}.*")}
    usual = get_pretrained_cfg(smaller) if offered else None
    if ours is None or usual is None:  # a name that timm gave up, or a network without weights
        return None
    fits = [name for name, described in offered.items() if described and described.input_size == ours.input_size]
    first = [f"{smaller}.{tag}" for tag in (ours.tag, usual.tag)]
    return next((name for name in (*first, *fits) if name in fits), None)
