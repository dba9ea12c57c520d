"""`Subnet`: one network of a supernet as an ordinary timm vision transformer, without slicing.

Importing this module registers it with timm: `timm.create_model("local-dir:FOLDER", pretrained=True)` then opens the folders
that `autoformer.networks.folders` writes.

Weights have timm's names where timm has them; the relative tables are `blocks.N.attn.{key,value}_{rows,columns}`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import timm
import torch
from timm.layers import DropPath, PatchEmbed, to_2tuple, trunc_normal_
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from timm.models._manipulate import checkpoint
from torch import Tensor, nn

from autoformer.architecture import Architecture
from autoformer.cost import Cost, count_flops, count_params
from autoformer.errors import ArchitectureError
from autoformer.networks.block import INIT_STD, Attention, Block, check_drop_path
from autoformer.networks.positions import farther, fitted_weights, resample_positions, spread_untrained
from autoformer.networks.relative_position import Form, Geometry, Tables, geometry, logit_scale
from autoformer.networks.supernet import Supernet
from autoformer.space import SearchSpace

__all__ = ["TIMM_NAME", "Attention", "Block", "Subnet"]  # timm adds the name it registers

TIMM_NAME = "autoformer_subnet"


class Subnet(nn.Module):
    """A vision transformer with per-block heads and MLP ratios; images [B, in_chans, side, side] to logits [B, classes].

    `drop_path_rate` belongs to block `super_depth` (the supernet's deepest, so that a shallower network keeps the rates
    it was trained with); None stands for this network's own depth. `searched_size` is given where the space had several
    image sizes; the architecture then names `img_size`. `trained_grid` is the farthest grid of patches (a side, or rows and
    columns) that the relative tables were trained on; None: no farther than this image's. `scale_by_width` is the official code's
    logit scale for a fixed query, key and value width. Raises `ArchitectureError` on contradictory sizes.
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
        trained_grid: int | tuple[int, int] | None = None,
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
        size = None if searched_size is None else to_2tuple(img_size)[0]
        self.architecture = Architecture(
            embed_dim=embed_dim, num_heads=tuple(num_heads), mlp_ratio=tuple(mlp_ratio), image_size=size
        )
        check_drop_path(drop_path_rate)
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
        self._stored_grid: tuple[int, int] | None = None if trained_grid is None else to_2tuple(trained_grid)
        self.trained_grid: tuple[int, int] = farther(self._stored_grid, self.patch_embed.grid_size)
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
        self.feature_info = [{"module": f"blocks.{i}", "num_chs": embed_dim, "reduction": patch_size} for i in range(depth)]
        self.norm: nn.Module = nn.LayerNorm(embed_dim, eps=norm_eps)
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
        output_dict: bool = False,
    ) -> Any:
        """timm's interface: the outputs of chosen blocks as [B, E, R, C] (or [B, P, E] with `output_fmt="NLC"`).

        With `output_dict` under timm's names: image_intermediates, image_intermediates_prefix, image_features.
        """
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
        if output_dict:
            named: dict[str, Any] = {"image_intermediates": found}
            if return_prefix_tokens:
                named["image_intermediates_prefix"] = prefix
            return named if intermediates_only else {**named, "image_features": self.norm(tokens)}
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

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """timm's interface: drops what these intermediate features do not need; gives their indices."""
        take, last = feature_take_indices(len(self.blocks), indices)
        own = self.architecture
        self.blocks = self.blocks[: last + 1]
        self.architecture = replace(own, num_heads=own.num_heads[: last + 1], mlp_ratio=own.mlp_ratio[: last + 1])
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0, "")
        return list(take)

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
        check_drop_path(rate)
        rates = torch.linspace(0, rate, super_depth or self.architecture.depth).tolist()
        for block, own in zip(self.blocks, rates, strict=False):
            assert isinstance(block, Block)
            block.drop_path1 = DropPath(own) if own else nn.Identity()
            block.drop_path2 = DropPath(own) if own else nn.Identity()

    def compile_blocks(self, **options: Any) -> None:
        """Compiles each block with `torch.compile(**options)`."""
        for block in self.blocks:
            block.compile(**options)

    def set_input_size(
        self, img_size: int | tuple[int, int] | None = None, patch_size: int | tuple[int, int] | None = None
    ) -> None:
        """Changes the image size in pixels, the patch, or both; None keeps it.

        Absolute positions are resampled; table rows for distances that no grid of this network had so far start from the
        farthest it had (at 224 px rows ±14 are untrained). Raises `ArchitectureError` for a patch that is not square.
        """
        if patch_size is not None and len(set(to_2tuple(patch_size))) > 1:
            raise ArchitectureError(f"patch_size is {patch_size}, expected a square patch")
        old, trained = self.patch_embed.grid_size, self.trained_grid
        self.patch_embed.set_input_size(img_size, patch_size)
        self.patch_size = self.patch_embed.patch_size[0]
        for info in self.feature_info:
            info["reduction"] = self.patch_size
        grid = self.patch_embed.grid_size
        self.trained_grid = farther(trained, grid)
        if self.architecture.image_size is not None:
            self.architecture = replace(self.architecture, image_size=self.patch_embed.img_size[0])
        with torch.no_grad():
            if self.pos_embed is not None:
                positions = resample_positions(self.pos_embed, old, grid).clone()
                self.pos_embed = nn.Parameter(positions, requires_grad=self.pos_embed.requires_grad)
            for block in self.blocks if self.relative_position else ():
                for name in Tables._fields:
                    spread_untrained(name, getattr(block.attn, name), trained)

    # --- making and describing -----------------------------------------------------------------------------------

    @property
    def space(self) -> SearchSpace:
        """The space that holds just this network. Square images and pooled features only."""
        if self.global_pool == "":
            raise ArchitectureError("a network that does not pool its features (global_pool '') is in no space")
        return self._space_of_sizes

    @property
    def _space_of_sizes(self) -> SearchSpace:
        """A space with this network's sizes; what the closed-form counts take."""
        self._check_whole()
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
        """Params and FLOPs (multiply-adds, canonical form) in closed form. Square images only."""
        space = self._space_of_sizes
        flops = count_flops(self.architecture, space)
        if self.global_pool == "":  # the classifier runs on every token
            flops += self.patch_embed.num_patches * self.num_classes * self.embed_dim
        return Cost(params=count_params(self.architecture, space), flops=flops)

    def _check_whole(self) -> None:
        if isinstance(self.norm, nn.Identity):
            raise ArchitectureError(
                "this network was pruned for its features and has no last norm; it cannot be counted or saved"
            )

    @property
    def model_args(self) -> dict[str, Any]:
        """The arguments that make this network again; JSON."""
        self._check_whole()
        size, trained = self.patch_embed.img_size, self.trained_grid
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
            "trained_grid": trained[0] if trained[0] == trained[1] else list(trained),
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
        space = supernet.space
        subnet = cls.from_space(
            space, architecture, drop_path_rate=drop_path_rate, super_depth=space.depths[-1], trained_grid=supernet.grid
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
    features = {"out_indices": min(3, len(options["num_heads"])), "feature_cls": "getter"}  # for features_only=True
    return cast(
        Subnet,
        build_model_with_cfg(Subnet, TIMM_NAME, pretrained, pretrained_filter_fn=fit_positions, feature_cfg=features, **options),
    )


def fit_positions(state_dict: dict[str, Tensor], subnet: Subnet) -> dict[str, Tensor]:
    """timm's hook between a folder's weights and a network that may be of another image size."""
    return fitted_weights(
        state_dict,
        subnet.patch_embed.grid_size,
        trained=subnet._stored_grid,
        absolute_position=subnet.pos_embed is not None,
    )
