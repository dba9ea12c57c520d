"""The stem: how images become a grid of embedded patches, of one network and of all networks of a space.

* `patch`: one convolution as large as its stride (the article's). Of several patch sizes one weight is stored, and the others are
  resampled from it so that a resized image meets the same products (FlexiViT, arXiv 2212.08013, section 3.4: the pseudo-inverse
  of the resizing).
* `conv`: 3 × 3 convolutions of stride 2 with ReLU until one position is left of a patch, further ones of stride 1 as deep as
  the stem is, then a 1 × 1 to the width of the network (Xiao et al., arXiv 2106.14881, show what overlap and depth give a small
  network). All but the 1 × 1 have the same channels in every network, and those of stride 1 belong to one patch size, so
  that a layer sees the same input whichever network it serves.

The convolutions of a supernet are normalised by their weights (Qiao et al., arXiv 1903.10520, scaled as by Brock et al.,
arXiv 2101.08692): mean 0 and the variance that a ReLU keeps, times a gain that is learned, per channel. That needs no
statistics of images, which would be of another network at every step, and other ones on every GPU; and a network that is cut
out has plain convolutions that compute the same.

Letters: c channels of the image, S channels of the stem, E width, p patch size.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from timm.layers import to_2tuple
from torch import Tensor, nn

from autoformer.architecture import SubnetGeometry, halvings_of
from autoformer.errors import ArchitectureError
from autoformer.space import SearchSpace

GAIN = math.sqrt(2 / (1 - 1 / math.pi))  # of a ReLU: what follows a normal input has variance (1 - 1/π) / 2
EPS = 1e-6  # of the variance of a weight


def resampled_patch(weight: Tensor, size: int) -> Tensor:
    """A patch embedding [E, c, P, P] for patches of `size` pixels, [E, c, size, size]; itself where the size stays.

    For patches larger than the stored one, a patch that was enlarged has the products that it had before. Half precision is
    resampled in float32, in mixed precision too.
    """
    stored = weight.shape[-1]
    if size == stored:
        return weight
    precise = weight.to(torch.promote_types(weight.dtype, torch.float32))
    matrix = _resampling_matrix(stored, size).to(precise)
    with torch.autocast(weight.device.type, enabled=False):  # which would multiply in half precision
        resampled: Tensor = matrix.t() @ precise @ matrix  # rows of the patch, then its columns
    return resampled.to(weight.dtype)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _resampling_matrix(stored: int, size: int) -> Tensor:
    return torch.from_numpy(_resampling(stored, size))


@functools.cache
def _resampling(stored: int, size: int) -> NDArray[np.float64]:
    """[P, p]: the pseudo-inverse of resizing a row of pixels bilinearly from `stored` to `size`, antialiased as torch does it.

    That of whole patches is its Kronecker product with itself. In numpy, since what is kept must not belong to the mode
    (inference, tracing, another device) in which it was first asked for.
    """
    wide = max(stored / size, 1.0)  # half the triangle's foot, in stored pixels
    centres = (np.arange(size) + 0.5) * stored / size
    distances = (np.arange(stored) + 0.5)[:, None] - centres  # [P, p]
    triangle = np.clip(1 - np.abs(distances) / wide, 0, None)
    return np.linalg.pinv((triangle / triangle.sum(0)).T)


# --- of all networks of a space ----------------------------------------------------------------------------------


class PatchEmbed(nn.Module):
    """Cuts images into patches and embeds them; initialised as torch initialises a convolution, like the official code."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.proj = nn.Conv2d(space.in_chans, space.stored_embed_dim, kernel_size=space.patch_size, stride=space.patch_size)

    def forward(self, images: Tensor, embed_dim: int, patch_size: int, depth: int) -> Tensor:
        """Images [B, c, side, side] as [B, E, R, C]."""
        weight, bias = self._sliced(embed_dim, patch_size)
        return F.conv2d(images, weight, bias, stride=patch_size)

    def slices(self, embed_dim: int, patch_size: int, depth: int) -> Iterator[tuple[str, Tensor]]:
        """The weights of one network under the names of its own stem."""
        weight, bias = self._sliced(embed_dim, patch_size)
        yield "proj.weight", weight
        yield "proj.bias", bias

    def _sliced(self, embed_dim: int, patch_size: int) -> tuple[Tensor, Tensor]:
        assert self.proj.bias is not None
        return resampled_patch(self.proj.weight[:embed_dim], patch_size), self.proj.bias[:embed_dim]


class NormalisedConv(nn.Module):
    """A 3 × 3 convolution whose weight is normalised."""

    def __init__(self, in_chans: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(channels, in_chans, 3, 3))
        self.gain = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        nn.init.kaiming_normal_(self.weight)

    def folded(self) -> Tensor:
        """The weight of a plain convolution that computes the same."""
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), correction=0, keepdim=True)
        scale = GAIN * torch.rsqrt(variance * self.weight[0].numel() + EPS)
        return (self.weight - mean) * scale * self.gain.view(-1, 1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(F.conv2d(x, self.folded(), self.bias, stride=self.stride, padding=1))


class SuperConvStem(nn.Module):
    """The convolutional stems of a space in one set of weights."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        channels, deepest = space.stem_dim, space.stem_depths[-1]
        self.halvings = nn.ModuleList(
            NormalisedConv(channels if index else space.in_chans, channels, 2)
            for index in range(halvings_of(space.patch_choices[-1]))
        )
        self.further = nn.ModuleDict(
            {
                str(size): nn.ModuleList(NormalisedConv(channels, channels, 1) for _ in range(deepest))
                for size in space.patch_choices
            }
        )
        self.proj = nn.Conv2d(channels, space.stored_embed_dim, kernel_size=1)

    def _convolutions(self, patch_size: int, depth: int) -> Iterator[NormalisedConv]:
        further = cast(nn.ModuleList, self.further[str(patch_size)])
        yield from cast(Iterator[NormalisedConv], iter([*self.halvings[: halvings_of(patch_size)], *further[:depth]]))

    def forward(self, images: Tensor, embed_dim: int, patch_size: int, depth: int) -> Tensor:
        """Images [B, c, side, side] as [B, E, R, C]."""
        x = images
        for convolution in self._convolutions(patch_size, depth):
            x = convolution(x)
        assert self.proj.bias is not None
        return F.conv2d(x, self.proj.weight[:embed_dim], self.proj.bias[:embed_dim])

    def slices(self, embed_dim: int, patch_size: int, depth: int) -> Iterator[tuple[str, Tensor]]:
        """The weights of one network under the names of its own stem, normalised."""
        assert self.proj.bias is not None
        for index, convolution in enumerate(self._convolutions(patch_size, depth)):
            yield f"convs.{index}.weight", convolution.folded()
            yield f"convs.{index}.bias", convolution.bias
        yield "proj.weight", self.proj.weight[:embed_dim]
        yield "proj.bias", self.proj.bias[:embed_dim]


def super_stem(space: SearchSpace) -> PatchEmbed | SuperConvStem:
    """The stem that the space asks for."""
    return SuperConvStem(space) if space.stem == "conv" else PatchEmbed(space)


# --- of one network ----------------------------------------------------------------------------------------------


class ConvStem(nn.Module):
    """The convolutional stem of one network, with what a `Subnet` asks of timm's `PatchEmbed`."""

    def __init__(self, geometry: SubnetGeometry, embed_dim: int, depth: int) -> None:
        super().__init__()
        halvings, stem_dim = halvings_of(geometry.patch_size), geometry.stem_dim
        self.in_chans = geometry.in_chans
        self.img_size, self.patch_size = geometry.img_size, to_2tuple(geometry.patch_size)
        self.convs = nn.ModuleList(
            nn.Conv2d(stem_dim if index else geometry.in_chans, stem_dim, 3, stride=2 if index < halvings else 1, padding=1)
            for index in range(halvings + depth)
        )
        self.proj = nn.Conv2d(stem_dim, embed_dim, 1)
        self.set_input_size(geometry.img_size)
        for convolution in self.convs:
            assert isinstance(convolution, nn.Conv2d)
            assert convolution.bias is not None
            nn.init.kaiming_normal_(convolution.weight)
            nn.init.zeros_(convolution.bias)

    def set_input_size(
        self, img_size: int | tuple[int, int] | None = None, patch_size: int | tuple[int, int] | None = None
    ) -> None:
        """Another image size in pixels. Raises `ArchitectureError` for another patch size: that is another stem."""
        if patch_size is not None and to_2tuple(patch_size) != self.patch_size:
            raise ArchitectureError(f"patch_size {patch_size}: a convolutional stem keeps its patches of {self.patch_size[0]} px")
        rows, columns = self.img_size if img_size is None else to_2tuple(img_size)
        if rows % self.patch_size[0] or columns % self.patch_size[0]:
            raise ArchitectureError(f"images of {rows}×{columns} px are no whole patches of {self.patch_size[0]} px")
        self.img_size = rows, columns
        self.grid_size = rows // self.patch_size[0], columns // self.patch_size[1]
        self.num_patches = self.grid_size[0] * self.grid_size[1]

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, c, rows, columns] as patches [B, P, E]. Raises `ArchitectureError` for images of another size."""
        if not torch.compiler.is_compiling() and (given := tuple(images.shape[-2:])) != self.img_size:
            raise ArchitectureError(f"images of {given[0]}×{given[1]} px for a network that takes {self.img_size} px")
        x = images
        for convolution in self.convs:
            x = F.relu(convolution(x))
        return cast(Tensor, self.proj(x).flatten(2).transpose(1, 2))
