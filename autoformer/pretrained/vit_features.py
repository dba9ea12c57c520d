"""Which of timm's vision transformers a `Subnet` computes, what they have beside their sizes, and what the others would need.

A transformer of learned absolute positions (or none) and pre-norm blocks of attention and a two-layer MLP is one of ours,
whatever its tokens, norms around the blocks, GELU and pooling are (`Anatomy`). Scales of its layers and absent biases are folded
(`vit_weights.py`). A model that computes anything else is refused, naming what it computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from timm.layers import GELU, Attention, AttentionRope, Mlp, PatchEmbed
from timm.layers.activations import GELUTanh, QuickGELU
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva, EvaAttention, EvaBlock
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from autoformer.architecture import Activation, Anatomy
from autoformer.errors import CheckpointError
from autoformer.pretrained.weight_shapes import sketch

TRANSFORMERS = (VisionTransformer, VisionTransformerDistilled, Eva)


def is_plain(name: str) -> bool:
    """Whether timm's network `name` is one that a `Subnet` computes. Raises `CheckpointError` when timm has none of this name."""
    return next(missing_features(sketch(name)), None) is None


def check_plain(model: nn.Module, name: str) -> None:
    """Raises `CheckpointError` naming the first thing that a `Subnet` does not compute."""
    if odd := next(missing_features(model), None):
        raise CheckpointError(
            f"timm's {name} has {odd}, which this tool's networks lack; choose another ViT, like deit3_small_patch16_224"
        )


def anatomy_of(model: Any) -> Anatomy:
    """What a model that is not refused has beside its sizes."""
    distilled = isinstance(model, VisionTransformerDistilled)
    return Anatomy(
        class_token=model.cls_token is not None,
        reg_tokens=int(distilled) if model.reg_token is None else model.reg_token.shape[1],
        distilled=distilled,
        pre_norm=_is_there(model.norm_pre),
        final_norm=_is_there(model.norm) or _is_there(model.fc_norm),
        fc_norm=_is_there(model.fc_norm),
        act_layer=_activation(model.blocks[0].mlp.act) or "gelu",
    )


def norms_of(model: Any) -> dict[str, nn.Module]:
    """The LayerNorms of a model, by their names."""
    found = {name: getattr(model, name) for name in ("norm_pre", "norm", "fc_norm")}
    for index, block in enumerate(model.blocks):
        found |= {f"blocks.{index}.norm1": block.norm1, f"blocks.{index}.norm2": block.norm2}
    return {name: norm for name, norm in found.items() if _is_there(norm)}


# --- what is refused ---------------------------------------------------------------------------------------------


def missing_features(model: Any) -> Iterator[str]:
    """What a model has and a `Subnet` does not compute, in words; none for one that becomes a `Subnet`."""
    if type(model) not in TRANSFORMERS:
        yield f"an architecture of its own ({type(model).__name__})"
        return  # nothing is known about its parts
    if getattr(model, "rope", None) is not None:
        yield f"rotary positions ({type(model.rope).__name__})"
    yield from _features_of_stem(model)
    if other := next((block for block in model.blocks if type(block) not in (Block, EvaBlock)), None):
        yield f"blocks of type {type(other).__name__}"
        return
    for block in model.blocks:
        yield from _features_of_block(block, model.blocks[0])
    if model.attn_pool is not None:
        yield f"attention pooling (pooling {model.global_pool!r})"
    elif model.global_pool not in ("token", "avg"):
        yield f"pooling {model.global_pool!r}"
    if model.global_pool == "avg" and getattr(model, "pool_include_prefix", False):
        yield "pooling over the class token too"
    yield from _features_of_norms(model)
    if not isinstance(model.head, nn.Linear | nn.Identity):
        yield f"a {type(model.head).__name__} for a classifier"


def _features_of_norms(model: Any) -> Iterator[str]:
    if _is_there(model.norm) and _is_there(model.fc_norm):
        yield "a norm before and another one after pooling"
    norms = list(norms_of(model).values())
    for norm in norms:
        if not isinstance(norm, nn.LayerNorm):
            yield f"{type(norm).__name__} for a norm"
        elif len(list(norm.parameters())) < 2:
            yield "norms without weight or bias"
        elif isinstance(norms[-1], nn.LayerNorm) and norm.eps != norms[-1].eps:
            yield f"norms of different eps ({norm.eps:g}, {norms[-1].eps:g})"


def _features_of_stem(model: Any) -> Iterator[str]:
    stem = model.patch_embed
    if type(stem) is not PatchEmbed:
        yield f"a {type(stem).__name__} before the blocks"
        return
    if _is_there(stem.norm):
        yield "a norm in its patch embedding"
    if stem.patch_size[0] != stem.patch_size[1] or stem.img_size[0] != stem.img_size[1]:
        yield "patches or images that are not square"
    elif stem.img_size[0] % stem.patch_size[0]:
        yield "an image size that its patches do not divide"


def _features_of_block(block: Any, first: Any) -> Iterator[str]:
    attention, mlp = block.attn, block.mlp
    if type(attention) not in (Attention, AttentionRope, EvaAttention):
        yield f"{type(attention).__name__} for attention"
        return
    if _is_there(attention.q_norm) or _is_there(attention.k_norm):
        yield "norms of query and key (qk_norm)"
    if _is_there(attention.norm):
        yield "a norm inside attention (scale_attn_norm)"
    if getattr(attention, "gate", None) is not None:
        yield "gated attention"
    if getattr(attention, "num_kv_heads", attention.num_heads) not in (None, attention.num_heads):
        yield "keys and values that several heads share (num_kv_heads)"
    if type(mlp) is not Mlp:
        yield f"{type(mlp).__name__} for an MLP"
        return
    if _is_there(mlp.norm):
        yield "a norm inside its MLP (scale_mlp_norm)"
    if _activation(mlp.act) is None:
        yield f"activation {mlp.act}, which is no GELU"
    elif type(mlp.act) is not type(getattr(first.mlp, "act", None)):
        yield "activations that differ between blocks"


def _activation(act: nn.Module) -> Activation | None:
    if type(act) is QuickGELU:
        return "quick_gelu"
    if type(act) is GELUTanh or getattr(act, "approximate", None) == "tanh":
        return "gelu_tanh"
    return "gelu" if type(act) in (nn.GELU, GELU) else None


def _is_there(module: nn.Module | None) -> bool:
    return not (module is None or isinstance(module, nn.Identity))
