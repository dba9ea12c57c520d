"""One network of timm for each kind of parent that becomes a supernet: its name, and further arguments."""

from __future__ import annotations

from typing import Any

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
    "query, key and value apart (EVA)": ("eva_giant_patch14_224", {"qkv_fused": False, "init_values": 0.1}),
}
