"""The supernet: one set of weights that holds every network of a search space (paper, section 3.1).

Weights are entangled: every layer of every subnet is a prefix slice of the same super weight, so training one subnet trains
all that overlap it. The architecture is an argument of `forward`; the module holds weights and nothing else, and can be
copied, pickled, compiled and wrapped like any other.

For comparison a space may ask for classical weight sharing (`sharing="classical"`): then every choice of width, heads and MLP
ratio has a block of its own at each depth, and only the stem, the final norm and the head are sliced.

Letters: B images, N tokens, E width, H heads, K channels per head, Q = H·K, M hidden width of the MLP.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import register_constant
from torch.utils.checkpoint import checkpoint

from autoformer.architecture import INIT_STD, Architecture
from autoformer.cost import features_of
from autoformer.errors import ArchitectureError
from autoformer.networks.block import check_rate
from autoformer.networks.ends import TOKENS, pooled, with_tokens
from autoformer.networks.grid import halve
from autoformer.networks.positions import resample_positions
from autoformer.networks.relative_position import Form, grid_geometry, halved
from autoformer.networks.rotary import turned
from autoformer.networks.stem import super_stem
from autoformer.networks.super_layers import BlockChoice, SuperBlock, SuperLayerNorm, block_choices, super_head
from autoformer.space import SearchSpace


def kernels_of(network: nn.Module) -> set[str]:
    """The names of the depthwise kernels of a network or supernet; decay would draw them away from changing nothing."""
    return {name for name, _ in network.named_parameters() if name.endswith((".kernels", ".mlp.conv.weight"))}


register_constant(Architecture)  # lets torch.export and torch.compile take an architecture as an argument


def branch_factors(x: Tensor, rate: float, draws: Tensor | None = None) -> Tensor | None:
    """What a block's attention and MLP are multiplied with, [2, B, 1, 1]: 0 for the share `rate` of images, else 1 / (1 - rate).

    That is stochastic depth in timm's form, drawn outside the block so that a compiled block does not depend on the rate.
    `draws` are uniform numbers [2, B] to decide by; None: drawn here. Gives None where all are 1.
    """
    if rate == 0.0:
        return None
    keep = 1.0 - rate
    numbers = torch.rand(2, x.shape[0], device=x.device, dtype=x.dtype) if draws is None else draws
    return (numbers[:, :, None, None] < keep) / keep


class BlockChoices(nn.ModuleDict):
    """Classical weight sharing: one block per choice of width, heads and MLP ratio, each of just its size."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__(
            {
                self.key(embed_dim, heads, int(embed_dim * ratio)): SuperBlock(
                    space, embed_dim, heads * space.head_dim, int(embed_dim * ratio)
                )
                for embed_dim in space.embed_dims
                for heads in space.num_heads
                for ratio in space.mlp_ratios
            }
        )

    @staticmethod
    def key(embed_dim: int, heads: int, hidden: int) -> str:
        return f"width{embed_dim}_heads{heads}_hidden{hidden}"


class Supernet(nn.Module):
    """All networks of `space` in one set of weights: `supernet(images, architecture)` gives logits [B, classes].

    Raises `ArchitectureError` when the space does not contain the architecture, or its networks have no classes.
    `drop_path_rate` is the rate of the deepest block of the space; a block keeps its rate in shallower networks
    (official code). `form` chooses how relative position is computed (relative_position.py).
    """

    cls_token: nn.Parameter  # [1, 1, E], where the space has one
    reg_token: nn.Parameter  # [1, registers, E], likewise

    def __init__(self, space: SearchSpace, *, drop_path_rate: float = 0.0, form: Form = "auto") -> None:
        super().__init__()
        if not space.num_classes:
            raise ArchitectureError(f"space {space.name!r} has num_classes 0; a supernet needs at least one class")
        self.space = space
        self.form: Form = form
        self.grad_checkpointing = False
        embed_dim = space.stored_embed_dim
        self.set_drop_path(drop_path_rate)
        self.patch_embed = super_stem(space)
        self.prefix = space.prefix_tokens
        for name, count in zip(TOKENS, (int(space.class_token), space.reg_tokens), strict=True):
            if count:
                token = nn.Parameter(torch.empty(1, count, embed_dim))
                self.register_parameter(name, token)
                nn.init.trunc_normal_(token, std=INIT_STD)
        if space.absolute_position:
            self.pos_embed = nn.Parameter(torch.empty(1, self.grid[0] * self.grid[1] + self.prefix, embed_dim))
            nn.init.trunc_normal_(self.pos_embed, std=INIT_STD)
        sizes = (space.stored_embed_dim, space.stored_qkv_dim, space.stored_hidden_dim)
        entangled = space.sharing == "entangled"
        self.blocks = nn.ModuleList(
            SuperBlock(space, *sizes) if entangled else BlockChoices(space) for _ in range(space.depths[-1])
        )
        if space.pre_norm:
            self.norm_pre = SuperLayerNorm(embed_dim, space.norm_eps)
        if space.final_norm:  # of the tokens, or of what is pooled of them
            self.norm = SuperLayerNorm(embed_dim, space.norm_eps)
        self.head = super_head(space)

    def forward(self, images: Tensor, architecture: Architecture, draws: Tensor | None = None) -> Tensor:
        """Logits [B, classes] of one subnet for images [B, channels, side, side] of the architecture's size.

        `draws`, uniform numbers [blocks of the deepest, 2, B], decide stochastic depth in training; None: drawn on the way.
        Raises `ArchitectureError` for images of another size.
        """
        if not torch.compiler.is_compiling():
            self.space.check(architecture)
            side, given = self.space.image_size_of(architecture), tuple(images.shape[-2:])
            if given != (side, side):
                raise ArchitectureError(f"images of {given[0]}×{given[1]} px for an architecture that takes {side}×{side} px")
        embed_dim, reach = architecture.embed_dim, self.space.max_relative_position
        x = self.patch_embed(images, embed_dim, self.space.patch_size_of(architecture), architecture.stem_depth or 0)
        rows, columns = x.shape[-2:]
        space, head_dim = self.space, self.space.head_dim
        where = turned(grid_geometry((rows, columns), reach, x, self.prefix), space, head_dim, x)
        x = with_tokens(x.flatten(2).transpose(1, 2), (token[..., :embed_dim] for _, token in self.tokens()))
        if self.space.absolute_position:
            x = x + resample_positions(self.pos_embed[..., :embed_dim], self.grid, (rows, columns), self.prefix)
        if self.space.pre_norm:
            x = self.norm_pre(x)
        for index, choice in enumerate(block_choices(architecture, self.space)):
            if index and index == architecture.pool_after:
                x, where = halve(x, where), turned(halved(where, reach, x), space, head_dim, x, step=2)
            rate = self.drop_path_rates[index] if self.training else 0.0
            block = self.block(index, embed_dim, choice)
            factors = branch_factors(x, rate, None if draws is None else draws[index])
            if self.grad_checkpointing and self.training:
                x = cast(Tensor, checkpoint(block, x, choice, where, self.form, factors, use_reentrant=False))
            else:
                x = block(x, choice, where, self.form, factors)
        if space.final_norm and not space.fc_norm:
            x = self.norm(x)
        x = pooled(x, space.pooling, self.prefix, distilled=space.distilled)
        if space.fc_norm:
            x = self.norm(x)
        return cast(Tensor, self.head(x.flatten(1) if space.distilled else x, space.num_classes))

    def tokens(self) -> Iterator[tuple[str, Tensor]]:
        """The tokens before the patches, [1, n, E] each, by the names of their weights."""
        yield from ((name, getattr(self, name)) for name in TOKENS if hasattr(self, name))

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches that positions are stored for: those of the largest images in the smallest patches."""
        return self.space.stored_grid, self.space.stored_grid

    def set_drop_path(self, rate: float) -> None:
        """Stochastic depth from now on: the rate of the deepest block, rising linearly from 0 at the first."""
        check_rate("drop_path_rate", rate)
        self.drop_path_rates: list[float] = torch.linspace(0, rate, self.space.depths[-1], device="cpu").tolist()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes each block in the backward pass instead of keeping its activations (timm's interface)."""
        self.grad_checkpointing = enable

    def compile_blocks(self, **options: Any) -> None:
        """Compiles the blocks with `torch.compile(**options)`: one graph per distinct block shape, shared by all depths.

        Sizes stay constants of a graph, so a space of 27 block shapes (`small`) costs 27 compilations per mode, once.
        Raises the process's recompile limit, behind which torch would silently run uncompiled, to what the space needs.
        """
        space = self.space
        grids = {size // patch for size in space.image_sizes for patch in space.patch_choices}
        grids |= {side // 2 for side in grids if space.pool_after != (0,)}
        of_block = len(space.num_heads) * len(space.mlp_ratios) * len(space.mlp_kernels) * len(space.head_dim_choices)
        shapes = len(space.embed_dims) * of_block * len(grids)
        needed = 8 * shapes  # training and evaluation, with and without gradients, full and last batch
        dynamo = torch._dynamo.config
        dynamo.recompile_limit = max(dynamo.recompile_limit, needed)
        dynamo.accumulated_recompile_limit = max(dynamo.accumulated_recompile_limit, needed)
        for module in self.modules():
            if isinstance(module, SuperBlock):
                module.compile(dynamic=False, **options)

    def block(self, index: int, embed_dim: int, choice: BlockChoice) -> SuperBlock:
        """The block at depth `index` that serves these sizes."""
        block = self.blocks[index]
        if isinstance(block, BlockChoices):
            block = block[BlockChoices.key(embed_dim, choice.heads, choice.hidden)]
        assert isinstance(block, SuperBlock)
        return block

    def no_weight_decay(self) -> set[str]:
        """Weights the recipe does not decay, beside biases and norms (timm's interface)."""
        return {"pos_embed", *TOKENS, *kernels_of(self)}

    def subnet_state_dict(self, architecture: Architecture) -> dict[str, Tensor]:
        """Copies of the weights of one subnet, under the names of `Subnet`."""
        self.space.check(architecture)
        return {name: tensor.detach().clone().contiguous() for name, tensor in self.slices(architecture)}

    def slices(self, architecture: Architecture) -> Iterator[tuple[str, Tensor]]:
        """The weights of one subnet under the names of `Subnet`: views of the super weights, where they are not worked out."""
        embed_dim = architecture.embed_dim
        stem = embed_dim, self.space.patch_size_of(architecture), architecture.stem_depth or 0
        found = {f"patch_embed.{name}": weight for name, weight in self.patch_embed.slices(*stem)}
        tokens = {name: token[..., :embed_dim] for name, token in self.tokens()}
        found |= tokens
        for name, own in self.space.norms.items():
            found[f"{name}.weight"], found[f"{name}.bias"] = getattr(self, own).slice(embed_dim)
        writers = ["norm_pre.bias"] if self.space.pre_norm else ["patch_embed.proj.bias", *tokens]  # the last into the stream
        if self.space.absolute_position:
            side = self.space.grid_of(architecture)
            found["pos_embed"] = resample_positions(self.pos_embed[..., :embed_dim], self.grid, (side, side), self.prefix)
        for index, choice in enumerate(block_choices(architecture, self.space)):
            block, name = self.block(index, embed_dim, choice), f"blocks.{index}"
            found |= {f"{name}.{layer}": weight for layer, weight in block.slices(embed_dim, choice)}
            for layer, present, mean_of in (
                ("attn.proj.bias", choice.heads, block.mean_of_attention),
                ("mlp.fc2.bias", choice.hidden, block.mean_of_mlp),
            ):
                if present:
                    writers = [f"{name}.{layer}"]
                elif isinstance(mean := mean_of(embed_dim), Tensor):
                    found |= {writer: found[writer] + mean for writer in writers}
        yield from found.items()
        weight, bias = self.head.slice(features_of(self.space) * embed_dim, self.space.num_classes)
        yield "head.weight", weight
        yield "head.bias", bias
