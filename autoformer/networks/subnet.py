"""`Subnet`: one network of a supernet as an ordinary timm vision transformer, without slicing.

Importing this module registers it with timm: `timm.create_model("local-dir:FOLDER", pretrained=True)` then opens the folders
that `autoformer.networks.folders` writes.

Weights have timm's names where timm has them; the relative tables are `blocks.N.attn.{key,value}_{rows,columns}`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast, get_args

import timm
import torch
from timm.layers import PatchEmbed, to_2tuple, trunc_normal_
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from timm.models._manipulate import checkpoint
from torch import Tensor, nn

from autoformer.architecture import INIT_STD, LEFT_OUT, MAX_DEPTH, Architecture, SubnetGeometry, is_whole
from autoformer.cost import Cost, count_flops, count_params
from autoformer.errors import ArchitectureError, short
from autoformer.networks.block import Attention, Block, check_rate
from autoformer.networks.ends import TOKENS, pooled, with_tokens
from autoformer.networks.grid import halve
from autoformer.networks.positions import farther, fitted_weights, resample_positions, spread_untrained
from autoformer.networks.relative_position import Form, Geometry, Tables, grid_geometry, halved
from autoformer.networks.rotary import turned
from autoformer.networks.stem import ConvStem
from autoformer.networks.supernet import Supernet, kernels_of
from autoformer.space import SearchSpace

__all__ = ["TIMM_NAME", "Attention", "Block", "Subnet"]  # timm adds the name it registers

TIMM_NAME = "autoformer_subnet"
PER_BLOCK = ("num_heads", "mlp_ratio", "mlp_kernel")  # of an architecture, one per block


class Subnet(nn.Module):
    """A vision transformer with per-block heads and MLP ratios; images [B, in_chans, rows, columns] to logits [B, classes].

    `drop_path_rate` belongs to block `super_depth` (the supernet's deepest, so that a shallower network keeps the rates
    it was trained with); None stands for this network's own depth. Where the space had several image sizes, the architecture
    names the one in the geometry. `geometry.trained_grid` None: no farther than this image's grid.
    Raises `ArchitectureError` on contradictory sizes.
    """

    cls_token: nn.Parameter | None
    norm_pre: nn.Module
    norm: nn.Module
    fc_norm: nn.Module

    def __init__(
        self,
        architecture: Architecture,
        geometry: SubnetGeometry,
        *,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        super_depth: int | None = None,
        form: Form = "auto",
    ) -> None:
        super().__init__()
        if architecture.image_size not in (None, geometry.img_size[0]):
            raise ArchitectureError(
                f"an architecture for images of {architecture.image_size} px in a geometry for {geometry.img_size} px"
            )
        if architecture.patch_size not in (None, geometry.patch_size):
            raise ArchitectureError(
                f"an architecture of patches of {architecture.patch_size} px in a geometry of {geometry.patch_size} px"
            )
        if geometry.stem == "patch" and architecture.stem_depth:
            raise ArchitectureError(f"stem_depth {architecture.stem_depth} in a geometry without a convolutional stem")
        if form not in get_args(Form):
            raise ArchitectureError(f"form must be one of {', '.join(get_args(Form))}, got {short(form, 40)}")
        check_rate("drop_rate", drop_rate)
        self.architecture = architecture
        self._stored_grid = geometry.trained_grid
        embed_dim = self.embed_dim = self.num_features = architecture.embed_dim
        self.num_prefix_tokens = geometry.prefix_tokens
        self.grad_checkpointing = False

        self.patch_embed = _stem(architecture, geometry)
        self._check_halving(self.patch_embed.grid_size)
        for name, count in zip(TOKENS, (int(geometry.class_token), geometry.reg_tokens), strict=True):
            token = nn.Parameter(trunc_normal_(torch.empty(1, count, embed_dim), std=INIT_STD)) if count else None
            self.register_parameter(name, token)
        self.pos_embed: nn.Parameter | None = None
        if geometry.absolute_position:
            positions = torch.empty(1, self.patch_embed.num_patches + self.num_prefix_tokens, embed_dim)
            self.pos_embed = nn.Parameter(trunc_normal_(positions, std=INIT_STD))
        grid = farther(geometry.trained_grid, self.patch_embed.grid_size)
        self.geometry = replace(geometry, trained_grid=grid)
        self.blocks = nn.ModuleList(
            Block(embed_dim, heads, hidden, geometry, form, kernel)
            for heads, hidden, kernel in zip(architecture.num_heads, architecture.hidden_dims, architecture.kernels, strict=True)
        )
        self.set_drop_path(drop_path_rate, super_depth)
        self.feature_info = [
            {"module": f"blocks.{index}", "num_chs": embed_dim, "reduction": self._reduction(index)}
            for index in range(architecture.depth)
        ]
        for name in ("norm_pre", "norm", "fc_norm"):
            self.add_module(name, nn.LayerNorm(embed_dim, eps=geometry.norm_eps) if name in geometry.norms else nn.Identity())
        self.head_drop = nn.Dropout(drop_rate)
        self.head: nn.Module = nn.Linear(self.head_hidden_size, self.num_classes) if self.num_classes else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=INIT_STD)
                nn.init.zeros_(module.bias)

    @property
    def num_classes(self) -> int:
        return self.geometry.num_classes

    @property
    def in_chans(self) -> int:
        return self.geometry.in_chans

    @property
    def head_hidden_size(self) -> int:
        """Features that the classifier reads."""
        return self.embed_dim * (2 if self.geometry.distilled and self.geometry.global_pool == "token" else 1)

    @property
    def first_conv(self) -> str:
        """The name of the convolution that takes the images."""
        return "patch_embed.convs.0" if isinstance(self.patch_embed, ConvStem) else "patch_embed.proj"

    # --- forward -------------------------------------------------------------------------------------------------

    def _embed(self, images: Tensor) -> tuple[Tensor, Geometry]:
        x = with_tokens(self.patch_embed(images), (getattr(self, name) for name in TOKENS))
        if self.pos_embed is not None:
            x = x + self.pos_embed
        x = self.norm_pre(x)
        where = grid_geometry(self.patch_embed.grid_size, self.geometry.max_relative_position, x, self.num_prefix_tokens)
        return x, turned(where, self.geometry, self.geometry.head_dim, x)

    def _run(self, index: int, x: Tensor, where: Geometry) -> tuple[Tensor, Geometry]:
        """The tokens after block `index`, and where they stand then."""
        block, own = self.blocks[index], self.geometry
        if index and index == self.architecture.pool_after:
            where = turned(halved(was := where, own.max_relative_position, x), own, own.head_dim, x, step=2)
            x = halve(x, was)
        if self.grad_checkpointing and self.training:
            return cast(Tensor, checkpoint(block, x, where)), where
        return cast(Tensor, block(x, where)), where

    def _reduction(self, index: int) -> int:
        """Pixels from one patch to the next in the output of block `index`."""
        return self.geometry.patch_size * (2 if index >= self.architecture.halved_after else 1)

    def _check_halving(self, grid: tuple[int, int]) -> None:
        """Raises `ArchitectureError` for a grid that cannot be halved and should be."""
        if self.architecture.pool_after and any(side % 2 for side in grid):
            raise ArchitectureError(f"a grid of {grid[0]}×{grid[1]} patches cannot be halved; give sides of twice the patch size")

    def forward_features(self, images: Tensor) -> Tensor:
        """Tokens [B, N, E] after the last norm (unless it takes pooled features), class token first, if any."""
        x, where = self._embed(images)
        for index in range(len(self.blocks)):
            x, where = self._run(index, x, where)
        return cast(Tensor, self.norm(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pools tokens [B, N, E] and classifies; with `pre_logits` the pooled features [B, E]."""
        own = self.geometry
        x = self.fc_norm(pooled(x, own.global_pool, self.num_prefix_tokens, distilled=own.distilled))
        x = self.head_drop(x.flatten(1) if own.distilled and own.global_pool == "token" else x)
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
        grids = []
        for index in range(last + 1 if stop_early else len(self.blocks)):
            tokens, where = self._run(index, tokens, where)
            if index in take:
                found.append(self.norm(tokens) if norm else tokens)
                grids.append((where.rows, where.columns))
        prefix = [y[:, : self.num_prefix_tokens] for y in found]
        found = [y[:, self.num_prefix_tokens :] for y in found]
        if output_fmt == "NCHW":
            found = [y.transpose(1, 2).unflatten(2, grid).contiguous() for y, grid in zip(found, grids, strict=True)]
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
        kept = {name: value[: last + 1] for name in PER_BLOCK if (value := getattr(own, name)) is not None}
        pool_after = own.pool_after if own.pool_after is None or own.pool_after <= last else 0
        self.architecture = replace(own, **kept, pool_after=pool_after)
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.fc_norm = nn.Identity()
            self.reset_classifier(0, "")
        return list(take)

    # --- timm's model interface ----------------------------------------------------------------------------------

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def no_weight_decay(self) -> set[str]:
        """Weights the recipe does not decay, beside all one-dimensional ones."""
        return {"pos_embed", *TOKENS, *kernels_of(self)}

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layer groups for layer-wise learning rate decay."""
        return {
            "stem": r"^cls_token|reg_token|pos_embed|patch_embed|norm_pre",
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
        pool: Any = self.geometry.global_pool if global_pool is None else global_pool
        self.geometry = replace(self.geometry, num_classes=num_classes, global_pool=pool)
        weight = next(self.patch_embed.parameters())
        device, dtype = weight.device, weight.dtype
        width = self.head_hidden_size
        self.head = nn.Linear(width, num_classes, device=device, dtype=dtype) if num_classes else nn.Identity()
        if isinstance(self.head, nn.Linear):
            trunc_normal_(self.head.weight, std=INIT_STD)
            nn.init.zeros_(self.head.bias)

    def set_drop_path(self, rate: float, super_depth: int | None = None) -> None:
        """Stochastic depth from now on: the rate of block `super_depth`, rising linearly from 0 at the first block."""
        check_rate("drop_path_rate", rate)
        depth = self.architecture.depth
        if super_depth is not None and not is_whole(super_depth, MAX_DEPTH, least=depth):
            raise ArchitectureError(f"super_depth must be from {depth} to {MAX_DEPTH}, got {short(super_depth, 40)}")
        rates = torch.linspace(0, rate, super_depth or depth, device="cpu").tolist()
        for block, own in zip(self.blocks, rates, strict=False):
            assert isinstance(block, Block)
            block.set_drop_path(own)

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
        old, trained = self.patch_embed.grid_size, farther(self.geometry.trained_grid, self.patch_embed.grid_size)
        new_sides = to_2tuple(self.patch_embed.img_size if img_size is None else img_size)
        new_patch = to_2tuple(self.patch_embed.patch_size if patch_size is None else patch_size)
        self._check_halving((new_sides[0] // new_patch[0], new_sides[1] // new_patch[1]))  # before anything changes
        self.patch_embed.set_input_size(img_size, patch_size)
        sides, grid, patch = self.patch_embed.img_size, self.patch_embed.grid_size, self.patch_embed.patch_size[0]
        self.geometry = replace(self.geometry, img_size=sides, patch_size=patch, trained_grid=farther(trained, grid))
        for index, info in enumerate(self.feature_info):
            info["reduction"] = self._reduction(index)
        if self.architecture.image_size is not None:
            self.architecture = replace(self.architecture, image_size=sides[0])
        if self.architecture.patch_size is not None:
            self.architecture = replace(self.architecture, patch_size=patch)
        with torch.no_grad():
            if self.pos_embed is not None:
                positions = resample_positions(self.pos_embed, old, grid, self.num_prefix_tokens).clone()
                self.pos_embed = nn.Parameter(positions, requires_grad=self.pos_embed.requires_grad)
            for block in self.blocks if self.geometry.relative_position else ():
                for name in Tables._fields:
                    spread_untrained(name, getattr(block.attn, name), trained)

    # --- making and describing -----------------------------------------------------------------------------------

    @property
    def space(self) -> SearchSpace:
        """The space that holds just this network. Square images and pooled features only."""
        if self.geometry.global_pool == "":
            raise ArchitectureError("a network that does not pool its features (global_pool '') is in no space")
        return SearchSpace.of_one(self.architecture, self._whole_geometry)

    @property
    def cost(self) -> Cost:
        """Params and FLOPs (multiply-adds, canonical form) in closed form. Square images only."""
        space = SearchSpace.of_one(self.architecture, self._whole_geometry)
        flops = count_flops(self.architecture, space)
        if self.geometry.global_pool == "":  # the classifier runs on every token
            patches = self.patch_embed.num_patches // (4 if self.architecture.pool_after else 1)
            of_one = self.num_classes * self.embed_dim + (5 * self.embed_dim if self.geometry.fc_norm else 0)
            flops += (patches + self.num_prefix_tokens - 1) * of_one
        return Cost(params=count_params(self.architecture, space), flops=flops)

    @property
    def model_args(self) -> dict[str, Any]:
        """The arguments of timm that make this network again; JSON."""
        return self._whole_geometry.arguments(self.architecture)

    @property
    def _whole_geometry(self) -> SubnetGeometry:
        if any(isinstance(getattr(self, name), nn.Identity) for name in self.geometry.norms):
            raise ArchitectureError(
                "this network was pruned for its features and has no last norm; it cannot be counted or saved"
            )
        return self.geometry

    @classmethod
    def from_space(cls, space: SearchSpace, architecture: Architecture, **options: Any) -> Subnet:
        """A network of `space` with fresh weights. `options` are further arguments of timm, like `drop_path_rate`."""
        space.check(architecture)
        arguments = space.geometry_of(architecture).arguments(architecture)
        return cast(Subnet, timm.create_model(TIMM_NAME, **{**arguments, **options}))

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


def _stem(architecture: Architecture, geometry: SubnetGeometry) -> PatchEmbed | ConvStem:
    if geometry.stem == "conv":
        return ConvStem(geometry, architecture.embed_dim, architecture.stem_depth or 0)
    return PatchEmbed(geometry.img_size, geometry.patch_size, geometry.in_chans, architecture.embed_dim)


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
    """A subnet by the flat form of its architecture and geometry (`autoformer.architecture`), and the options of `Subnet`."""
    defaults = {"embed_dim": 192, "num_heads": (3,) * 12, "mlp_ratio": (4.0,) * 12}
    arguments = {**defaults, **kwargs}
    features = {"out_indices": min(3, len(arguments["num_heads"])), "feature_cls": "getter"}  # for features_only=True
    return cast(
        Subnet,
        build_model_with_cfg(_made, TIMM_NAME, pretrained, pretrained_filter_fn=fit_positions, feature_cfg=features, **arguments),
    )


def _made(**arguments: Any) -> Subnet:
    """The network of timm's flat arguments; those that are neither of its architecture nor geometry are options of `Subnet`."""
    architecture, geometry = SubnetGeometry.of_arguments(arguments)
    known = {*geometry.arguments(architecture), *LEFT_OUT}
    return Subnet(architecture, geometry, **{name: value for name, value in arguments.items() if name not in known})


def fit_positions(state_dict: dict[str, Tensor], subnet: Subnet) -> dict[str, Tensor]:
    """timm's hook between a folder's weights and a network that may be of another image size."""
    return fitted_weights(
        state_dict,
        subnet.patch_embed.grid_size,
        trained=subnet._stored_grid,
        absolute_position=subnet.pos_embed is not None,
        prefix=subnet.num_prefix_tokens,
    )
