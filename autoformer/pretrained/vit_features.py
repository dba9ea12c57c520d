"""Which of timm's vision transformers a `Subnet` computes, what they have beside their sizes, and what the others would need.

A transformer of learned or rotary positions (or none) and pre-norm blocks of attention and an MLP, gated or not, is one of ours,
whatever its tokens, norms around the blocks, activation and pooling are (`Anatomy`). Scales of its layers and absent biases are
folded (`vit_weights.py`). A model that computes anything else is refused, naming what it computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from timm.layers import (
    GELU,
    Attention,
    AttentionRope,
    GluMlp,
    Mlp,
    PatchEmbed,
    RotaryEmbeddingCat,
    RotaryEmbeddingDinoV3,
    SwiGLU,
)
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
        gated_mlp=isinstance(model.blocks[0].mlp, SwiGLU | GluMlp),
        scale_mlp_norm=_is_there(model.blocks[0].mlp.norm),
        scale_attn_norm=_is_there(model.blocks[0].attn.norm),
        **_rotation_of(getattr(model, "rope", None)),
    )


def _rotation_of(rope: Any) -> dict[str, Any]:
    if isinstance(rope, RotaryEmbeddingDinoV3):
        return {"rope": "centre", "rope_temperature": rope.temperature, "rope_offset": rope.grid_offset}
    if isinstance(rope, RotaryEmbeddingCat):
        reference = 0 if rope.ref_feat_shape is None else rope.ref_feat_shape[0]
        offset = {"rope_offset": rope.grid_offset, "rope_reference": reference}
        return {"rope": "index", "rope_temperature": float(rope.temperature), **offset}
    return {}


def norms_of(model: Any) -> dict[str, nn.Module]:
    """The LayerNorms of a model, by their names."""
    found = {name: getattr(model, name) for name in ("norm_pre", "norm", "fc_norm")}
    for index, block in enumerate(model.blocks):
        names = {"norm1": block.norm1, "norm2": block.norm2, "attn.norm": block.attn.norm, "mlp.norm": block.mlp.norm}
        found |= {f"blocks.{index}.{name}": norm for name, norm in names.items()}
    return {name: norm for name, norm in found.items() if _is_there(norm)}


# --- what is refused ---------------------------------------------------------------------------------------------


def missing_features(model: Any) -> Iterator[str]:
    """What a model has and a `Subnet` does not compute, in words; none for one that becomes a `Subnet`."""
    if type(model) not in TRANSFORMERS:
        yield f"an architecture of its own ({type(model).__name__})"
        return  # nothing is known about its parts
    yield from _features_of_rotation(getattr(model, "rope", None))
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


def _features_of_rotation(rope: Any) -> Iterator[str]:
    if rope is None:
        return
    if type(rope) not in (RotaryEmbeddingCat, RotaryEmbeddingDinoV3):
        yield f"rotary positions of another kind ({type(rope).__name__})"
        return
    reference = getattr(rope, "ref_feat_shape", None)
    index = type(rope) is RotaryEmbeddingDinoV3 or (rope.grid_type == "index" and not rope.in_pixels)
    if not index or getattr(rope, "min_period", None) is not None or (reference and reference[0] != reference[1]):
        yield "rotary positions whose frequencies follow another rule"
    if rope.normalize_coords != "separate":
        yield f"rotary positions within the {rope.normalize_coords}imum of rows and columns"


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
    if getattr(attention, "gate", None) is not None:
        yield "gated attention"
    if getattr(attention, "num_kv_heads", attention.num_heads) not in (None, attention.num_heads):
        yield "keys and values that several heads share (num_kv_heads)"
    if type(mlp) not in (Mlp, SwiGLU, GluMlp):
        yield f"{type(mlp).__name__} for an MLP"
        return
    if _activation(mlp.act) is None:
        yield f"activation {mlp.act}, which is neither a GELU nor SiLU"
    elif type(mlp) is not type(first.mlp) or type(mlp.act) is not type(getattr(first.mlp, "act", None)):
        yield "MLPs that differ between blocks"


def _activation(act: nn.Module) -> Activation | None:
    if type(act) is QuickGELU:
        return "quick_gelu"
    if type(act) is GELUTanh or getattr(act, "approximate", None) == "tanh":
        return "gelu_tanh"
    if type(act) is nn.SiLU:
        return "silu"
    return "gelu" if type(act) in (nn.GELU, GELU) else None


def _is_there(module: nn.Module | None) -> bool:
    return not (module is None or isinstance(module, nn.Identity))
