"""One network of timm for each kind of parent that becomes a supernet: its name, and further arguments."""

from __future__ import annotations

import copy
from typing import Any

import torch

PARENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "LayerScale, positions of patches alone (DeiT III)": ("deit3_small_patch16_224", {}),
    "LayerScale (DINOv2)": ("vit_small_patch14_dinov2", {}),
    "registers, dynamic image size (DINOv2)": ("vit_small_patch14_reg4_dinov2", {"dynamic_img_size": True}),
    "registers without a class token, norm after pooling": ("vit_medium_patch16_reg4_gap_256", {}),
    "norm before the blocks (CLIP)": ("vit_base_patch32_clip_224", {}),
    "quick GELU (CLIP)": ("vit_base_patch32_clip_quickgelu_224", {}),
    "no class token, tanh GELU (SigLIP 2)": ("vit_base_patch32_siglip_gap_256", {}),
    "norm after pooling": ("eva_large_patch14_196", {}),
    "no biases of query, key and value": ("vit_base_patch16_224_miil", {}),
    "no biases after attention and in the MLP": ("vit_tiny_patch16_224", {"proj_bias": False}),
    "two tokens are classified (distilled DeiT)": ("deit_tiny_distilled_patch16_224", {}),
    "no last norm (RADIO)": ("vit_base_patch16_radio_v3", {}),
    "biases of query and value (EVA)": ("eva_giant_patch14_clip_224", {}),
    "rotary positions, registers (DINOv3)": ("vit_small_patch16_dinov3", {}),
    "rotary positions, gated MLP (DINOv3)": ("vit_small_plus_patch16_dinov3", {}),
    "rotary positions and absolute ones, gated MLP with a norm (EVA-02)": ("eva02_base_patch14_224", {}),
    "gated MLP, packed (EVA-02)": ("eva02_small_patch14_224", {}),
    "norms inside attention and MLP (EVA-02 CLIP)": ("eva02_base_patch16_clip_224", {}),
    "columns before rows, an offset (Perception Encoder)": ("vit_pe_spatial_tiny_patch16_512", {}),
    "columns before rows, absolute positions of patches": ("vit_small_patch16_rope_ape_224", {}),
    "gated MLP without rotary positions (DINOv2)": ("vit_giant_patch14_reg4_dinov2", {}),
    "norms inside attention and MLP (BEiT-3)": ("beit3_base_patch16_224", {}),
    "query, key and value apart (EVA)": ("eva_giant_patch14_224", {"qkv_fused": False, "init_values": 0.1}),
}


def in_double(model: Any) -> Any:
    """A copy of timm's model in float64, with rotary tables as precise; timm keeps those of its image size in float32."""
    model = copy.deepcopy(model).double()
    rope: Any = getattr(model, "rope", None)
    if getattr(rope, "pos_embed", None) is not None:
        rope.pos_embed = rope._build_embed_cat(rope.feat_shape, rope.bands, dtype=torch.float64)
    elif getattr(rope, "pos_embed_cached", None) is not None:
        rope.pos_embed_cached = rope._create_embed(rope.feat_shape, no_aug=True)
    return model
