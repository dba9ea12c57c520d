"""The supernet: one set of weights that holds every network of a search space (paper, section 3.1).

Weights are entangled: every layer of every subnet is a prefix slice of the same super weight, so training one subnet trains
all that overlap it. The architecture is an argument of `forward`; the module holds weights and nothing else, and can be
copied, pickled, compiled and wrapped like any other.

For comparison a space may ask for classical weight sharing (`sharing="classical"`): then every choice of width, heads and MLP
ratio has a block of its own at each depth, and only the stem, the final norm and the head are sliced.

Layout: query, key and value weights are stored apart, [3, Q, E], heads in order, so a prefix of Q channels is a prefix
of heads, and weights and biases are sliced alike. (The official code interleaves the rows of the weight but not the bias, so
that a bias serves the query in one network and the key in another; `prefix_qkv_bias` repeats that for its checkpoints.)

Letters: B images, N tokens, E width, H heads, K channels per head, Q = H·K, M hidden width of the MLP.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import register_constant
from torch.utils.checkpoint import checkpoint

from autoformer.architecture import Architecture
from autoformer.cost import features_of
from autoformer.errors import ArchitectureError
from autoformer.networks.block import INIT_STD, check_rate
from autoformer.networks.ends import ACTIVATIONS, TOKENS, pooled, with_tokens
from autoformer.networks.grid import centre, convolve, halve, identity_kernels
from autoformer.networks.positions import resample_positions
from autoformer.networks.relative_position import Form, Geometry, Tables, attend, grid_geometry, halved, logit_scale
from autoformer.networks.rotary import turned
from autoformer.networks.stem import super_stem
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


class SuperLinear(nn.Module):
    """A linear layer whose leading rows and columns serve narrower networks."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        nn.init.trunc_normal_(self.weight, std=INIT_STD)

    def slice(self, in_features: int, out_features: int) -> tuple[Tensor, Tensor]:
        return self.weight[:out_features, :in_features], self.bias[:out_features]

    def forward(self, x: Tensor, out_features: int) -> Tensor:
        return F.linear(x, *self.slice(x.shape[-1], out_features))


class SuperHead(SuperLinear):
    """The classifier of several tokens in a row, [C, T·E]; narrower networks have the leading columns of each."""

    def __init__(self, embed_dim: int, num_classes: int, tokens: int) -> None:
        super().__init__(tokens * embed_dim, num_classes)
        self.tokens = tokens

    def slice(self, in_features: int, out_features: int) -> tuple[Tensor, Tensor]:
        weight = self.weight[:out_features].unflatten(1, (self.tokens, -1))[..., : in_features // self.tokens]
        return weight.flatten(1), self.bias[:out_features]


def super_head(space: SearchSpace) -> SuperLinear:
    """A fresh classifier for the networks of `space`."""
    width, tokens = space.stored_embed_dim, features_of(space)
    return SuperLinear(width, space.num_classes) if tokens == 1 else SuperHead(width, space.num_classes, tokens)


class SuperQKV(nn.Module):
    """Query, key and value projections; a prefix of heads serves networks with fewer.

    With `prefix_bias` the bias of a network with Q channels is the first 3Q of all bias numbers in a row (official code).
    """

    def __init__(self, embed_dim: int, qkv_dim: int, *, prefix_bias: bool) -> None:
        super().__init__()
        self.prefix_bias = prefix_bias
        self.weight = nn.Parameter(torch.empty(3, qkv_dim, embed_dim))
        self.bias = nn.Parameter(torch.zeros(3, qkv_dim))
        nn.init.trunc_normal_(self.weight, std=INIT_STD)

    def slice(self, embed_dim: int, qkv_dim: int) -> tuple[Tensor, Tensor]:
        """Weight [3Q, E] and bias [3Q], ordered query, key, value."""
        bias = self.bias.flatten()[: 3 * qkv_dim] if self.prefix_bias else self.bias[:, :qkv_dim].flatten()
        return self.weight[:, :qkv_dim, :embed_dim].flatten(0, 1), bias

    def forward(self, x: Tensor, qkv_dim: int) -> Tensor:
        return F.linear(x, *self.slice(x.shape[-1], qkv_dim))


class SuperLayerNorm(nn.Module):
    """A LayerNorm whose leading channels serve narrower networks."""

    def __init__(self, embed_dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(embed_dim))
        self.bias = nn.Parameter(torch.zeros(embed_dim))
        self.eps = eps

    def slice(self, width: int) -> tuple[Tensor, Tensor]:
        return self.weight[:width], self.bias[:width]

    def forward(self, x: Tensor) -> Tensor:
        width = x.shape[-1]
        return F.layer_norm(x, (width,), *self.slice(width), self.eps)


class SuperAttention(nn.Module):
    """Multi-head attention with relative position; all heads of a layer share its tables."""

    def __init__(self, space: SearchSpace, embed_dim: int, qkv_dim: int) -> None:
        super().__init__()
        self.head_dim = space.head_dim
        self.scale_by_width = space.scale_by_width
        self.relative_position = space.relative_position
        self.qkv = SuperQKV(embed_dim, qkv_dim, prefix_bias=space.prefix_qkv_bias)
        self.has_norm = space.scale_attn_norm
        if self.has_norm:  # of what all heads gathered
            self.norm = SuperLayerNorm(qkv_dim, space.norm_eps)
        self.proj = SuperLinear(qkv_dim, embed_dim)
        if space.relative_position:
            for name in Tables._fields:
                table = nn.Parameter(torch.empty(2 * space.max_relative_position + 2, space.head_dim))
                nn.init.trunc_normal_(table, std=INIT_STD)
                self.register_parameter(name, table)

    def tables(self) -> Tables | None:
        return Tables(*(getattr(self, name) for name in Tables._fields)) if self.relative_position else None

    def forward(self, x: Tensor, heads: int, where: Geometry, form: Form) -> Tensor:
        width = x.shape[-1]
        qkv = self.qkv(x, heads * self.head_dim).unflatten(-1, (3, heads, self.head_dim))  # [B, N, 3, H, K]
        scale = logit_scale(width, heads, self.head_dim, by_width=self.scale_by_width)
        out = attend(qkv, self.tables(), where, scale, form)
        return cast(Tensor, self.proj(self.norm(out) if self.has_norm else out, width))


class BlockChoice(NamedTuple):
    """What one network chose for one block."""

    heads: int
    hidden: int  # channels of the MLP
    kernel: int  # side of its depthwise convolution; 0: none


def block_choices(architecture: Architecture) -> list[BlockChoice]:
    """The choices of every block, in order."""
    return list(map(BlockChoice, architecture.num_heads, architecture.hidden_dims, architecture.kernels))


class SuperBlock(nn.Module):
    """One pre-norm transformer block of up to these sizes."""

    def __init__(self, space: SearchSpace, embed_dim: int, qkv_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.norm1 = SuperLayerNorm(embed_dim, space.norm_eps)
        self.attn = SuperAttention(space, embed_dim, qkv_dim)
        self.norm2 = SuperLayerNorm(embed_dim, space.norm_eps)
        self.fc1 = SuperLinear(embed_dim, hidden_dim)
        if largest := space.mlp_kernels[-1]:
            self.kernels = nn.Parameter(identity_kernels(hidden_dim, largest))
        self.act = ACTIVATIONS[space.act_layer]()
        self.gated, self.has_norm = space.gated_mlp, space.scale_mlp_norm
        if self.gated:
            self.fc1_g = SuperLinear(embed_dim, hidden_dim)
        if self.has_norm:  # of the MLP's hidden channels
            self.norm = SuperLayerNorm(hidden_dim, space.norm_eps)
        self.fc2 = SuperLinear(hidden_dim, embed_dim)

    def forward(self, x: Tensor, choice: BlockChoice, where: Geometry, form: Form, factors: Tensor | None) -> Tensor:
        attention = self.attn(self.norm1(x), choice.heads, where, form)
        x = x + (attention if factors is None else attention * factors[0])
        normalised = self.norm2(x)
        inner = self.fc1(normalised, choice.hidden)
        if choice.kernel:
            inner = convolve(inner, self.kernels_of(choice), where)
        inner = self.act(self.fc1_g(normalised, choice.hidden)) * inner if self.gated else self.act(inner)
        mlp = self.fc2(self.norm(inner) if self.has_norm else inner, x.shape[-1])
        return cast(Tensor, x + (mlp if factors is None else mlp * factors[1]))

    def kernels_of(self, choice: BlockChoice) -> Tensor:
        """The kernels [M, 1, k, k] of a network's MLP."""
        return centre(self.kernels[: choice.hidden], choice.kernel)


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
        for index, choice in enumerate(block_choices(architecture)):
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
        shapes = len(space.embed_dims) * len(space.num_heads) * len(space.mlp_ratios) * len(space.mlp_kernels) * len(grids)
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
        """The weights of one subnet as views of the super weights, under the names of `Subnet`."""
        embed_dim = architecture.embed_dim
        stem = embed_dim, self.space.patch_size_of(architecture), architecture.stem_depth or 0
        for name, weight in self.patch_embed.slices(*stem):
            yield f"patch_embed.{name}", weight
        for name, token in self.tokens():
            yield name, token[..., :embed_dim]
        if self.space.absolute_position:
            side = self.space.grid_of(architecture)
            yield "pos_embed", resample_positions(self.pos_embed[..., :embed_dim], self.grid, (side, side), self.prefix)
        for index, choice in enumerate(block_choices(architecture)):
            block, hidden = self.block(index, embed_dim, choice), choice.hidden
            name, qkv_dim = f"blocks.{index}", choice.heads * self.space.head_dim
            layers = {
                "attn.qkv": block.attn.qkv.slice(embed_dim, qkv_dim),
                "attn.proj": block.attn.proj.slice(qkv_dim, embed_dim),
                "mlp.fc1": block.fc1.slice(embed_dim, hidden),
                "mlp.fc2": block.fc2.slice(hidden, embed_dim),
                "norm1": block.norm1.slice(embed_dim),
                "norm2": block.norm2.slice(embed_dim),
            }
            if self.space.scale_attn_norm:
                layers["attn.norm"] = block.attn.norm.slice(qkv_dim)
            if self.space.gated_mlp:
                layers["mlp.fc1_g"] = block.fc1_g.slice(embed_dim, hidden)
            if self.space.scale_mlp_norm:
                layers["mlp.norm"] = block.norm.slice(hidden)
            for layer, (weight, bias) in layers.items():
                yield f"{name}.{layer}.weight", weight
                yield f"{name}.{layer}.bias", bias
            if choice.kernel:
                yield f"{name}.mlp.conv.weight", block.kernels_of(choice)
            if self.space.relative_position:
                for table in Tables._fields:
                    yield f"{name}.attn.{table}", getattr(block.attn, table)
        for name, own in self.space.norms.items():
            yield f"{name}.weight", getattr(self, own).weight[:embed_dim]
            yield f"{name}.bias", getattr(self, own).bias[:embed_dim]
        weight, bias = self.head.slice(features_of(self.space) * embed_dim, self.space.num_classes)
        yield "head.weight", weight
        yield "head.bias", bias
