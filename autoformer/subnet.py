"""`Subnet`: one network of a supernet as an ordinary timm vision transformer, without slicing.

Importing this module registers it with timm: `timm.create_model("local-dir:FOLDER", pretrained=True)` then opens the folders
that `autoformer.subnet_folder` writes.

Weights have timm's names where timm has them; the relative tables are `blocks.N.attn.{key,value}_{rows,columns}`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import timm
import torch
from timm.layers import DropPath, Mlp, PatchEmbed, trunc_normal_
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from timm.models._manipulate import checkpoint
from torch import Tensor, nn

from autoformer.architecture import Architecture
from autoformer.cost import Cost, count_flops, count_params
from autoformer.errors import ArchitectureError
from autoformer.relative_position import Form, Geometry, Tables, attend, geometry, logit_scale
from autoformer.space import SearchSpace
from autoformer.supernet import INIT_STD, Supernet, resample_positions

TIMM_NAME = "autoformer_subnet"


class Attention(nn.Module):
    """Multi-head attention with relative position on keys and values; [B, N, E] in and out."""

    def __init__(self, dim: int, heads: int, head_dim: int, max_relative_position: int | None, scale: float, form: Form) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.scale, self.form = heads, head_dim, scale, form
        self.qkv = nn.Linear(dim, 3 * heads * head_dim)
        self.proj = nn.Linear(heads * head_dim, dim)
        self.relative_position = max_relative_position is not None
        if max_relative_position is not None:
            for name in Tables._fields:
                table = nn.Parameter(torch.empty(2 * max_relative_position + 2, head_dim))
                self.register_parameter(name, trunc_normal_(table, std=INIT_STD))

    def forward(self, x: Tensor, where: Geometry) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim))  # [B, N, 3, H, K]
        tables = Tables(*(getattr(self, name) for name in Tables._fields)) if self.relative_position else None
        return cast(Tensor, self.proj(attend(qkv, tables, where, self.scale, self.form)))


def spread_edge(table: Tensor, reach: int) -> None:
    """Copies the rows for distances ±`reach` of a table [2M + 2, K] to all greater distances, in place."""
    zero = table.shape[0] // 2  # row of distance 0; row 0 is the class token's
    if reach < zero - 1:
        table[zero + reach + 1 :] = table[zero + reach].clone()
        table[1 : zero - reach] = table[zero - reach].clone()


class Block(nn.Module):
    """One pre-norm transformer block."""

    def __init__(
        self, dim: int, heads: int, hidden: int, head_dim: int, max_relative_position: int | None, eps: float,
        drop_path: float, scale: float, form: Form,
    ) -> None:  # fmt: skip
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads, head_dim, max_relative_position, scale, form)
        self.drop_path1 = DropPath(drop_path) if drop_path else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, hidden_features=hidden)
        self.drop_path2 = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, where: Geometry) -> Tensor:
        x = x + self.drop_path1(self.attn(self.norm1(x), where))
        return x + cast(Tensor, self.drop_path2(self.mlp(self.norm2(x))))


class Subnet(nn.Module):
    """A vision transformer with per-block heads and MLP ratios; images [B, in_chans, side, side] to logits [B, classes].

    `drop_path_rate` belongs to block `super_depth` (the supernet's deepest, so that a shallower network keeps the rates
    it was trained with); None stands for this network's own depth. `searched_size` is the image size where the space had
    several, and is part of the architecture. `scale_by_width` is the official code's logit scale for a fixed query, key and
    value width. Raises `ArchitectureError` on contradictory sizes.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        num_heads: Sequence[int],
        mlp_ratio: Sequence[float],
        head_dim: int = 64,
        img_size: int | tuple[int, int] = 224,
        searched_size: int | None = None,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        max_relative_position: int = 14,
        relative_position: bool = True,
        absolute_position: bool = True,
        global_pool: str = "avg",
        norm_eps: float = 1e-5,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        super_depth: int | None = None,
        scale_by_width: bool = False,
        form: Form = "auto",
    ) -> None:
        super().__init__()
        self.architecture = Architecture(
            embed_dim=embed_dim, num_heads=tuple(num_heads), mlp_ratio=tuple(mlp_ratio), image_size=searched_size
        )
        if global_pool not in ("avg", "token", ""):
            raise ArchitectureError(f"global_pool is {global_pool!r}, expected 'avg', 'token' or ''")
        self.embed_dim = self.num_features = self.head_hidden_size = embed_dim
        self.head_dim, self.patch_size, self.in_chans, self.num_classes = head_dim, patch_size, in_chans, num_classes
        self.max_relative_position, self.relative_position = max_relative_position, relative_position
        self.global_pool, self.norm_eps, self.scale_by_width = global_pool, norm_eps, scale_by_width
        self.num_prefix_tokens = 1
        self.grad_checkpointing = False

        self.patch_embed = PatchEmbed(img_size, patch_size, in_chans, embed_dim)
        self.cls_token = nn.Parameter(trunc_normal_(torch.empty(1, 1, embed_dim), std=INIT_STD))
        self.pos_embed: nn.Parameter | None = None
        if absolute_position:
            positions = torch.empty(1, self.patch_embed.num_patches + 1, embed_dim)
            self.pos_embed = nn.Parameter(trunc_normal_(positions, std=INIT_STD))
        rows, columns = self.patch_embed.grid_size
        self._reach = (rows - 1, columns - 1)  # farthest distances the tables were trained for
        depth = self.architecture.depth
        rates = torch.linspace(0, drop_path_rate, super_depth or depth, device="cpu").tolist()[:depth]
        tables = max_relative_position if relative_position else None
        self.blocks = nn.ModuleList(
            Block(
                embed_dim,
                heads,
                hidden,
                head_dim,
                tables,
                norm_eps,
                rate,
                logit_scale(embed_dim, heads, head_dim, by_width=scale_by_width),
                form,
            )
            for heads, hidden, rate in zip(num_heads, self.architecture.hidden_dims, rates, strict=True)
        )
        self.norm = nn.LayerNorm(embed_dim, eps=norm_eps)
        self.head_drop = nn.Dropout(drop_rate)
        self.head: nn.Module = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=INIT_STD)
                nn.init.zeros_(module.bias)

    # --- forward -------------------------------------------------------------------------------------------------

    def _embed(self, images: Tensor) -> tuple[Tensor, Geometry]:
        x = self.patch_embed(images)
        rows, columns = self.patch_embed.grid_size
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1)
        if self.pos_embed is not None:
            x = x + self.pos_embed
        return x, geometry(rows, columns, self.max_relative_position, x.device, x.dtype)

    def _run(self, block: nn.Module, x: Tensor, where: Geometry) -> Tensor:
        if self.grad_checkpointing and self.training:
            return cast(Tensor, checkpoint(block, x, where))
        return cast(Tensor, block(x, where))

    def forward_features(self, images: Tensor) -> Tensor:
        """Normalised tokens [B, N, E], class token first."""
        x, where = self._embed(images)
        for block in self.blocks:
            x = self._run(block, x, where)
        return cast(Tensor, self.norm(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pools tokens [B, N, E] and classifies; with `pre_logits` the pooled features [B, E]."""
        if self.global_pool == "avg":
            x = x[:, 1:].mean(1)
        elif self.global_pool == "token":
            x = x[:, 0]
        x = self.head_drop(x)
        return x if pre_logits else cast(Tensor, self.head(x))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes]."""
        return self.forward_head(self.forward_features(images))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """timm's interface: the outputs of chosen blocks as [B, E, R, C] (or [B, P, E] with `output_fmt="NLC"`)."""
        assert output_fmt in ("NCHW", "NLC"), f"output_fmt is {output_fmt!r}, expected 'NCHW' or 'NLC'"
        take, last = feature_take_indices(len(self.blocks), indices)
        tokens, where = self._embed(x)
        found: list[Any] = []
        for index, block in enumerate(list(self.blocks)[: last + 1] if stop_early else self.blocks):
            tokens = self._run(block, tokens, where)
            if index in take:
                found.append(self.norm(tokens) if norm else tokens)
        prefix = [y[:, :1] for y in found]
        found = [y[:, 1:] for y in found]
        if output_fmt == "NCHW":
            grid = self.patch_embed.grid_size
            found = [y.transpose(1, 2).unflatten(2, grid).contiguous() for y in found]
        if return_prefix_tokens:
            found = list(zip(found, prefix, strict=True))
        return found if intermediates_only else (self.norm(tokens), found)

    def get_intermediate_layers(
        self, x: Tensor, n: int | list[int] = 1, reshape: bool = False, return_prefix_tokens: bool = False,
        norm: bool = False,
    ) -> list[Any]:  # fmt: skip
        """The outputs of the last `n` blocks, or of the listed ones (the interface of DINO and timm)."""
        return cast(
            list[Any],
            self.forward_intermediates(
                x, n, return_prefix_tokens, norm, output_fmt="NCHW" if reshape else "NLC", intermediates_only=True
            ),
        )

    # --- timm's model interface ----------------------------------------------------------------------------------

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def no_weight_decay(self) -> set[str]:
        """Weights the recipe does not decay, beside all one-dimensional ones."""
        return {"pos_embed", "cls_token"}

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layer groups for layer-wise learning rate decay."""
        return {
            "stem": r"^cls_token|pos_embed|patch_embed",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))],
        }

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes each block in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def get_classifier(self) -> nn.Module:
        """The classification layer."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classification layer by a fresh one (Identity for 0 classes)."""
        if global_pool is not None:
            assert global_pool in ("avg", "token", ""), f"global_pool is {global_pool!r}"
            self.global_pool = global_pool
        self.num_classes = num_classes
        device, dtype = self.cls_token.device, self.cls_token.dtype
        self.head = nn.Linear(self.embed_dim, num_classes, device=device, dtype=dtype) if num_classes else nn.Identity()
        if isinstance(self.head, nn.Linear):
            trunc_normal_(self.head.weight, std=INIT_STD)
            nn.init.zeros_(self.head.bias)

    def set_drop_path(self, rate: float, super_depth: int | None = None) -> None:
        """Stochastic depth from now on: the rate of block `super_depth`, rising linearly from 0 at the first block."""
        rates = torch.linspace(0, rate, super_depth or self.architecture.depth).tolist()
        for block, own in zip(self.blocks, rates, strict=False):
            assert isinstance(block, Block)
            block.drop_path1 = DropPath(own) if own else nn.Identity()
            block.drop_path2 = DropPath(own) if own else nn.Identity()

    def compile_blocks(self, **options: Any) -> None:
        """Compiles each block with `torch.compile(**options)`."""
        for block in self.blocks:
            block.compile(**options)

    def set_input_size(self, img_size: int | tuple[int, int], patch_size: int | None = None) -> None:
        """Changes the image size in pixels (and the patch): absolute positions are resampled; table rows for distances
        that no size of this network had so far start from the farthest it had (at 224 px rows ±14 are untrained)."""
        reach = self._reach
        self.patch_embed.set_input_size(img_size, patch_size)
        self.patch_size = self.patch_embed.patch_size[0]
        rows, columns = self.patch_embed.grid_size
        self._reach = (max(reach[0], rows - 1), max(reach[1], columns - 1))
        if self.architecture.image_size is not None:
            self.architecture = replace(self.architecture, image_size=self.patch_embed.img_size[0])
        with torch.no_grad():
            if self.pos_embed is not None:
                self.pos_embed = nn.Parameter(resample_positions(self.pos_embed, (rows, columns)).clone())
            for block in self.blocks if self.relative_position else ():
                for name in Tables._fields:
                    spread_edge(getattr(block.attn, name), reach[0 if name.endswith("rows") else 1])

    # --- making and describing -----------------------------------------------------------------------------------

    @property
    def space(self) -> SearchSpace:
        """The space that holds just this network; what the closed-form counts take. Square images only."""
        rows, columns = self.patch_embed.img_size
        if rows != columns:
            raise ArchitectureError(f"images of {rows}×{columns} px: costs in closed form know square images only")
        return SearchSpace(
            name="one",
            embed_dims=(self.embed_dim,),
            depths=(self.architecture.depth,),
            num_heads=self.architecture.num_heads,
            mlp_ratios=self.architecture.mlp_ratio,
            image_sizes=(rows,),
            head_dim=self.head_dim,
            patch_size=self.patch_size,
            in_chans=self.in_chans,
            num_classes=self.num_classes,
            max_relative_position=self.max_relative_position,
            relative_position=self.relative_position,
            absolute_position=self.pos_embed is not None,
            pooling="mean" if self.global_pool == "avg" else "token",
            norm_eps=self.norm_eps,
            scale_by_width=self.scale_by_width,
        )

    @property
    def cost(self) -> Cost:
        """Params and FLOPs (multiply-adds, canonical form) in closed form."""
        return Cost(params=count_params(self.architecture, self.space), flops=count_flops(self.architecture, self.space))

    @property
    def model_args(self) -> dict[str, Any]:
        """The arguments that make this network again; JSON."""
        size = self.patch_embed.img_size
        return {
            "embed_dim": self.embed_dim,
            "num_heads": list(self.architecture.num_heads),
            "mlp_ratio": list(self.architecture.mlp_ratio),
            "head_dim": self.head_dim,
            "img_size": size[0] if size[0] == size[1] else list(size),
            "searched_size": self.architecture.image_size,
            "patch_size": self.patch_size,
            "in_chans": self.in_chans,
            "num_classes": self.num_classes,
            "max_relative_position": self.max_relative_position,
            "relative_position": self.relative_position,
            "absolute_position": self.pos_embed is not None,
            "global_pool": self.global_pool,
            "norm_eps": self.norm_eps,
            "scale_by_width": self.scale_by_width,
        }

    @classmethod
    def from_space(cls, space: SearchSpace, architecture: Architecture, **options: Any) -> Subnet:
        """A network of `space` with fresh weights. `options` are those of the constructor."""
        space.check(architecture)
        return cast(
            Subnet,
            timm.create_model(
                TIMM_NAME,
                embed_dim=architecture.embed_dim,
                num_heads=architecture.num_heads,
                mlp_ratio=architecture.mlp_ratio,
                head_dim=space.head_dim,
                img_size=space.image_size_of(architecture),
                searched_size=architecture.image_size,
                patch_size=space.patch_size,
                in_chans=space.in_chans,
                num_classes=space.num_classes,
                max_relative_position=space.max_relative_position,
                relative_position=space.relative_position,
                absolute_position=space.absolute_position,
                global_pool="avg" if space.pooling == "mean" else "token",
                norm_eps=space.norm_eps,
                scale_by_width=space.scale_by_width,
                **options,
            ),
        )

    @classmethod
    def from_supernet(cls, supernet: Supernet, architecture: Architecture, *, drop_path_rate: float = 0.0) -> Subnet:
        """Cuts `architecture` out of `supernet` with its inherited weights; the logits are the supernet's.

        Raises `ArchitectureError` when the space does not contain it.
        """
        subnet = cls.from_space(
            supernet.space, architecture, drop_path_rate=drop_path_rate, super_depth=supernet.space.depths[-1]
        )
        subnet.to(next(supernet.parameters()).dtype)
        subnet.load_state_dict(supernet.subnet_state_dict(architecture))
        return subnet.to(next(supernet.parameters()).device).train(supernet.training)


default_cfgs = generate_default_cfgs(
    {
        TIMM_NAME: {
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        }
    }
)


@register_model  # type: ignore[untyped-decorator]
def autoformer_subnet(pretrained: bool = False, **kwargs: Any) -> Subnet:
    """A subnet by its choices; see `Subnet` for the arguments."""
    defaults = {"embed_dim": 192, "num_heads": (3,) * 12, "mlp_ratio": (4.0,) * 12}
    options = {**defaults, **kwargs}
    return cast(Subnet, build_model_with_cfg(Subnet, TIMM_NAME, pretrained, pretrained_filter_fn=fit_positions, **options))


def fit_positions(state_dict: dict[str, Tensor], subnet: Subnet) -> dict[str, Tensor]:
    """Stored weights for a network of another image size: positions resampled, tables as `set_input_size` leaves them."""
    stored = state_dict.get("pos_embed")
    if stored is None or subnet.pos_embed is None or stored.shape == subnet.pos_embed.shape:
        return state_dict
    reach = int((stored.shape[1] - 1) ** 0.5) - 1
    fitted = {**state_dict, "pos_embed": resample_positions(stored, subnet.patch_embed.grid_size)}
    for name, tensor in state_dict.items():
        if name.rpartition(".")[2] in Tables._fields:
            fitted[name] = tensor.clone()
            spread_edge(fitted[name], reach)
    return fitted
