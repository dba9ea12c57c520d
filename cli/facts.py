"""What is known of a space or an architecture without running it: sizes, counts, and why published counts differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

from autoformer.architecture import ANATOMY, PUBLISHED, PUBLISHED_SPACES, Architecture
from autoformer.cost import (
    Outline,
    alignment_waste,
    count_flops,
    count_params,
    count_supernet_params,
    norm_flops_around,
    show,
    tokens_of,
)
from autoformer.space import PRESETS, SearchSpace

# What the paper states (table 3) and what the official code's get_complexity gives for the published networks.
OTHER_COUNTS: dict[str, dict[str, float]] = {
    "AutoFormer-T": {"paper_params": 5.7e6, "paper_flops": 1.3e9, "official_code_flops": 1.3440e9},
    "AutoFormer-S": {"paper_params": 22.9e6, "paper_flops": 5.1e9, "official_code_flops": 4.8921e9},
    "AutoFormer-B": {"paper_params": 54e6, "paper_flops": 11e9, "official_code_flops": 11.2369e9},
}
WHY_COUNTS_DIFFER = (
    "Ours are the multiply-adds of the factorised relative position, LayerNorm as fvcore counts it. The official code counts one "
    "token too many in every product and the head for all tokens, relative position as 2·14·n² per layer, and no LayerNorm."
)
# The paper does not say how it counts; these are inferences from the sums of `published_counts`.
PAPER_PROBABLY = {
    "AutoFormer-T": "The paper's number probably leaves the N×N embedding of relative position out, since it would be {products} "
    "with it; whether it holds LayerNorm does not show in two digits.",
    "AutoFormer-S": "The paper's number is probably {products} cut after one digit, that is with the N×N embedding of relative "
    "position and without LayerNorm; without the embedding it could not be that large.",
    "AutoFormer-B": "The paper's number probably leaves the N×N embedding of relative position out, since it would be {products} "
    "with it, which is 11 only if cut off; whether it holds LayerNorm does not show in two digits.",
}

ExecutedForm = Literal["bias", "fused", "tiled"]
WHERE = {"bias": "what counters see", "tiled": "torch on a CPU", "fused": "exported graphs, torch on an accelerator"}  # of `auto`


def facts_of_space(space: SearchSpace) -> dict[str, Any]:
    """Choices, number of architectures, the costs of the smallest, middle and largest, and the supernet's memory."""
    anchors = {"smallest": space.smallest, "middle": space.middle, "largest": space.largest}.items()
    return {
        "kind": "space",
        "networks": space.size,
        **{name: {"params": count_params(anchor, space), "flops": count_flops(anchor, space)} for name, anchor in anchors},
        "supernet_memory_mib": {  # weights in float32, with shared and with independent weights per choice
            sharing: round(4 * count_supernet_params(replace(space, sharing=sharing)) / 2**20, 1)
            for sharing in ("entangled", "classical")
            if sharing == "entangled"
            or not (space.any_up_to_largest or space.prefix_qkv_bias or not space.is_plain or space.mean_shift)
        },
        **{name: value for name, value in space.to_dict().items() if name != "format"},
        **(
            {"stem_dim": space.stem_dim} if space.stem == "conv" else {}
        ),  # where it is the usual one, a space's file leaves it out
    }


def facts_of_architecture(architecture: Architecture, space: SearchSpace) -> dict[str, Any]:
    """Choices and costs of one network, and what padding its widths to multiples of 32 would add.

    Beside the canonical `flops` stand those of relative position as it is executed, by form.
    """
    return {
        "kind": "architecture",
        "slug": architecture.slug,
        "params": count_params(architecture, space),
        "flops": count_flops(architecture, space),
        "executed_flops": {form: count_executed_flops(architecture, space, form) for form in ("bias", "tiled", "fused")},
        "alignment_waste": alignment_waste(architecture, space),
        "depth": architecture.depth,
        "image_size": space.image_size_of(architecture),
        **_grids(architecture, space),
        "num_classes": space.num_classes,
        **({"anatomy": unusual} if (unusual := _unusual(space)) else {}),
        "architecture": architecture.to_dict(),
    }


def _unusual(space: SearchSpace) -> dict[str, Any]:
    """What networks of the space have in another way than the article's: by timm's names."""
    return {name: value for name, usual in ANATOMY.items() if (value := getattr(space, name)) != usual}


def _grids(architecture: Architecture, space: SearchSpace) -> dict[str, Any]:
    """The patch size in pixels and the patches a side that each block sees, where the space asks for more than the article's."""
    if not space.asks_for:
        return {}
    return {"patch_size": space.patch_size_of(architecture), "grids": list(Outline.of(architecture, space).grids)}


def count_executed_flops(architecture: Architecture, space: SearchSpace, form: ExecutedForm) -> int:
    """Multiply-adds of one image with relative position in this form; equal to the canonical count for `bias`."""
    total = count_flops(architecture, space)
    if not space.relative_position or form == "bias":
        return total
    channels = space.head_dim_of(architecture)
    total -= count_relative_position_flops(architecture, space)
    for heads, grid in _heads_and_grids(architecture, space):
        qkv, tokens, features = heads * channels, tokens_of(grid, space), 2 * grid
        if form == "fused":
            padding = -(channels + features) % 8
            total += 2 * tokens**2 * (features + padding) * heads  # longer keys in the logits, longer values in the sum
            total += 4 * grid**3 * qkv  # rows and columns, for keys and for values
        else:
            distances = 2 * (2 * grid - 1)
            total += 2 * tokens**2 * features * heads
            total += 2 * tokens * distances * qkv  # every token with every distance, for keys and for values
    return total


def count_relative_position_flops(architecture: Architecture, space: SearchSpace) -> int:
    """The share of relative position in the canonical count."""
    if not space.relative_position:
        return 0
    return sum(
        (4 * grid**3 + (tokens_of(grid, space) if space.prefix_tokens else 0)) * heads * space.head_dim_of(architecture)
        for heads, grid in _heads_and_grids(architecture, space)
    )


def count_unfactorised_flops(architecture: Architecture, space: SearchSpace) -> int:
    """What relative position costs as the official code multiplies it: queries and attention with an N×N×K embedding."""
    if not space.relative_position:
        return 0
    channels = space.head_dim_of(architecture)
    return sum(2 * tokens_of(grid, space) ** 2 * heads * channels for heads, grid in _heads_and_grids(architecture, space))


def count_layer_norm_flops(architecture: Architecture, space: SearchSpace) -> int:
    """The share of LayerNorm in the canonical count: 5 an element, as fvcore has it."""
    outline = Outline.of(architecture, space)
    total = norm_flops_around(outline, space)
    for heads, hidden, grid in zip(architecture.num_heads, architecture.hidden_dims, outline.grids, strict=True):
        of_attention = architecture.embed_dim + heads * outline.head_dim * space.scale_attn_norm if heads else 0
        of_mlp = architecture.embed_dim + hidden * space.scale_mlp_norm if hidden else 0
        total += 5 * tokens_of(grid, space) * (of_attention + of_mlp)
    return total


def _heads_and_grids(architecture: Architecture, space: SearchSpace) -> Iterator[tuple[int, int]]:
    """Of each block the heads, and the patches along one side that it sees."""
    return zip(architecture.num_heads, Outline.of(architecture, space).grids, strict=True)


def published_counts(name: str) -> dict[str, Any]:
    """How others count a published network, and of what the differences to ours consist; all in multiply-adds."""
    network = (PUBLISHED[name], PRESETS[PUBLISHED_SPACES[name]])
    layer_norm, factorised = count_layer_norm_flops(*network), count_relative_position_flops(*network)
    without_either = count_flops(*network) - layer_norm - factorised
    unfactorised = count_unfactorised_flops(*network)
    return {
        **OTHER_COUNTS[name],
        "layer_norm_flops": layer_norm,
        "relative_position_flops": factorised,
        "unfactorised_relative_position_flops": unfactorised,
        "without_either_flops": without_either,
        "official_products_flops": without_either + unfactorised,
        "why_they_differ": WHY_COUNTS_DIFFER,
        "paper_probably": PAPER_PROBABLY[name].format(products=show("flops", without_either + unfactorised)),
    }
