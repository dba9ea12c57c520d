"""Small spaces that ask for patch sizes, a stem, kernels and a place of halving; with a class token and without."""

from __future__ import annotations

from dataclasses import replace

from autoformer.space import SearchSpace

PATCHES = SearchSpace(
    name="asking", embed_dims=(16, 24), depths=(3, 4), num_heads=(1, 2), mlp_ratios=(1.0, 2.0), head_dim=8, image_sizes=(16, 32),
    patch_size=4, patch_sizes=(2, 4), mlp_kernels=(0, 3, 5), pool_after=(0, 1, 2), num_classes=5, max_relative_position=6,
)  # fmt: skip
CONVOLUTIONS = replace(PATCHES, stem="conv", stem_dim=8, stem_depths=(0, 2))
WITHOUT_TOKEN = replace(CONVOLUTIONS, class_token=False)
ASKING = {"patches": PATCHES, "convolutions": CONVOLUTIONS, "without token": WITHOUT_TOKEN}
