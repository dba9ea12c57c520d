"""The supernet: one set of weights that holds every network of a search space (paper, section 3.1).

Weights are entangled: every layer of every subnet is a prefix slice of the same super weight, so training one subnet trains
all that overlap it. The architecture is an argument of `forward`; the module holds weights and nothing else, and can be
copied, pickled, compiled and wrapped like any other.

For comparison a space may ask for classical weight sharing (`sharing="classical"`): then every choice of width, heads and MLP
ratio has a block of its own at each depth, and only the stem, the final norm and the head are sliced.

Layout: query, key and value weights are stored apart, [3, Q, E], heads in order, so a prefix of Q channels is a prefix
of heads, and weights and biases are sliced alike. (The official code interleaves the rows of the weight but not the bias, so
that a bias serves the query in one network and the key in another; `prefix_qkv_bias` repeats that for its checkpoints.) Of
narrower heads each is a prefix of its own head; their queries are scaled so that logits keep the scale of the whole head.

A block may lack its attention or its MLP. Where the space has `mean_shift`, what a network lacks (heads, channels of heads,
channels of an MLP, or all of them) leaves its mean in the bias behind it, so that the stream keeps its level.

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
from autoformer.errors import ArchitectureError
from autoformer.networks.block import INIT_STD, check_rate
from autoformer.networks.grid import centre, convolve, halve, identity_kernels
from autoformer.networks.positions import resample_positions
from autoformer.networks.relative_position import Form, Geometry, Tables, attend, grid_geometry, halved, logit_scale
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


class SuperQKV(nn.Module):
    """Query, key and value projections; a prefix of heads serves networks with fewer.

    With `prefix_bias` the bias of a network with Q channels is the first 3Q of all bias numbers in a row (official code).
    """

    def __init__(self, embed_dim: int, qkv_dim: int, head_dim: int, *, prefix_bias: bool) -> None:
        super().__init__()
        self.prefix_bias, self.head_dim = prefix_bias, head_dim
        self.weight = nn.Parameter(torch.empty(3, qkv_dim, embed_dim))
        self.bias = nn.Parameter(torch.zeros(3, qkv_dim))
        nn.init.trunc_normal_(self.weight, std=INIT_STD)

    def slice(self, embed_dim: int, heads: int, channels: int) -> tuple[Tensor, Tensor]:
        """Weight [3Q, E] and bias [3Q], ordered query, key, value, of so many heads with so many channels each."""
        if channels == self.head_dim:
            qkv_dim = heads * channels
            bias = self.bias.flatten()[: 3 * qkv_dim] if self.prefix_bias else self.bias[:, :qkv_dim].flatten()
            return self.weight[:, :qkv_dim, :embed_dim].flatten(0, 1), bias
        scale = self.bias.new_ones(3)
        scale[0] = (channels / self.head_dim) ** 0.5  # what attention divides logits by is of its own channels
        weight = self.weight.unflatten(1, (-1, self.head_dim))[:, :heads, :channels, :embed_dim] * scale.view(3, 1, 1, 1)
        bias = self.bias.unflatten(1, (-1, self.head_dim))[:, :heads, :channels] * scale.view(3, 1, 1)
        return weight.flatten(0, 2), bias.flatten()

    def forward(self, x: Tensor, heads: int, channels: int) -> Tensor:
        return F.linear(x, *self.slice(x.shape[-1], heads, channels))


class SuperLayerNorm(nn.Module):
    """A LayerNorm whose leading channels serve narrower networks."""

    def __init__(self, embed_dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(embed_dim))
        self.bias = nn.Parameter(torch.zeros(embed_dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        width = x.shape[-1]
        return F.layer_norm(x, (width,), self.weight[:width], self.bias[:width], self.eps)


class SuperAttention(nn.Module):
    """Multi-head attention with relative position; all heads of a layer share its tables."""

    def __init__(self, space: SearchSpace, embed_dim: int, qkv_dim: int) -> None:
        super().__init__()
        self.head_dim = space.head_dim
        self.scale_by_width = space.scale_by_width
        self.relative_position = space.relative_position
        self.qkv = SuperQKV(embed_dim, qkv_dim, space.head_dim, prefix_bias=space.prefix_qkv_bias)
        self.proj = SuperLinear(qkv_dim, embed_dim)
        if space.relative_position:
            for name in Tables._fields:
                table = nn.Parameter(torch.empty(2 * space.max_relative_position + 2, space.head_dim))
                nn.init.trunc_normal_(table, std=INIT_STD)
                self.register_parameter(name, table)

        if space.mean_shift:
            self.register_buffer("mean", torch.zeros(qkv_dim))  # of what the projection takes, in the largest network

    def tables(self, channels: int) -> Tables | None:
        return Tables(*(getattr(self, name)[:, :channels] for name in Tables._fields)) if self.relative_position else None

    def projection(self, embed_dim: int, heads: int, channels: int) -> tuple[Tensor, Tensor]:
        """Weight [E, Q] and bias [E] of the layer after attention, of so many heads with so many channels each."""
        if channels == self.head_dim:
            weight, bias = self.proj.slice(heads * channels, embed_dim)
        else:
            weight = self.proj.weight[:embed_dim].unflatten(1, (-1, self.head_dim))[:, :heads, :channels].flatten(1)
            bias = self.proj.bias[:embed_dim]
        if isinstance(mean := getattr(self, "mean", None), Tensor) and weight.shape[1] < len(mean):
            lost = mean.clone().unflatten(0, (-1, self.head_dim))
            lost[:heads, :channels] = 0
            bias = F.linear(lost.flatten(), self.proj.weight[:embed_dim], bias)
        return weight, bias

    def forward(self, x: Tensor, heads: int, channels: int, where: Geometry, form: Form) -> Tensor:
        width = x.shape[-1]
        qkv = self.qkv(x, heads, channels).unflatten(-1, (3, heads, channels))  # [B, N, 3, H, K]
        scale = logit_scale(width, heads, channels, by_width=self.scale_by_width)
        return F.linear(attend(qkv, self.tables(channels), where, scale, form), *self.projection(width, heads, channels))


class BlockChoice(NamedTuple):
    """What one network chose for one block."""

    heads: int  # 0: no attention
    channels: int  # of each head
    hidden: int  # channels of the MLP; 0: no MLP
    kernel: int  # side of its depthwise convolution; 0: none


def block_choices(architecture: Architecture, space: SearchSpace) -> list[BlockChoice]:
    """The choices of every block, in order."""
    channels = [space.head_dim_of(architecture)] * architecture.depth
    return list(map(BlockChoice, architecture.num_heads, channels, architecture.hidden_dims, architecture.kernels))


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
        self.fc2 = SuperLinear(hidden_dim, embed_dim)
        if space.mean_shift:
            self.register_buffer("mean", torch.zeros(hidden_dim))  # of what `fc2` takes, in the largest network

    def forward(self, x: Tensor, choice: BlockChoice, where: Geometry, form: Form, factors: Tensor | None) -> Tensor:
        of_attention, of_mlp = (None, None) if factors is None else factors
        x = x + self._attention(x, choice, where, form, of_attention)
        return x + self._mlp(x, choice, where, of_mlp)

    def _attention(self, x: Tensor, choice: BlockChoice, where: Geometry, form: Form, factors: Tensor | None) -> Tensor | float:
        """What attention adds to the stream; nothing, or its mean, where there is none."""
        if not choice.heads:
            return self.mean_of_attention(x.shape[-1])
        attention: Tensor = self.attn(self.norm1(x), choice.heads, choice.channels, where, form)
        return attention if factors is None else attention * factors

    def _mlp(self, x: Tensor, choice: BlockChoice, where: Geometry, factors: Tensor | None) -> Tensor | float:
        """What the MLP adds to the stream; nothing, or its mean, where there is none."""
        if not choice.hidden:
            return self.mean_of_mlp(x.shape[-1])
        inner = self.fc1(self.norm2(x), choice.hidden)
        if choice.kernel:
            inner = convolve(inner, self.kernels_of(choice), where)
        mlp = F.linear(F.gelu(inner), *self.output_layer(x.shape[-1], choice.hidden))
        return mlp if factors is None else mlp * factors

    def output_layer(self, embed_dim: int, hidden: int) -> tuple[Tensor, Tensor]:
        """Weight [E, M] and bias [E] of the MLP's second layer."""
        weight, bias = self.fc2.slice(hidden, embed_dim)
        if isinstance(mean := getattr(self, "mean", None), Tensor) and hidden < len(mean):
            bias = F.linear(mean[hidden:], self.fc2.weight[:embed_dim, hidden:], bias)
        return weight, bias

    def mean_of_attention(self, embed_dim: int) -> Tensor | float:
        """What attention adds to the stream on average, [E]; 0 where the space leaves no means."""
        return self.attn.projection(embed_dim, 0, self.attn.head_dim)[1] if hasattr(self.attn, "mean") else 0.0

    def mean_of_mlp(self, embed_dim: int) -> Tensor | float:
        """What the MLP adds to the stream on average, [E]; 0 where the space leaves no means."""
        return self.output_layer(embed_dim, 0)[1] if hasattr(self, "mean") else 0.0

    def slices(self, embed_dim: int, choice: BlockChoice) -> Iterator[tuple[str, Tensor]]:
        """The weights of one network's block under the names of `Block`."""
        heads, channels, hidden, kernel = choice
        layers: dict[str, tuple[Tensor, Tensor]] = {}
        if heads:
            layers["attn.qkv"] = self.attn.qkv.slice(embed_dim, heads, channels)
            layers["attn.proj"] = self.attn.projection(embed_dim, heads, channels)
            layers["norm1"] = self.norm1.weight[:embed_dim], self.norm1.bias[:embed_dim]
        if hidden:
            layers["mlp.fc1"], layers["mlp.fc2"] = self.fc1.slice(embed_dim, hidden), self.output_layer(embed_dim, hidden)
            layers["norm2"] = self.norm2.weight[:embed_dim], self.norm2.bias[:embed_dim]
        for layer, (weight, bias) in layers.items():
            yield f"{layer}.weight", weight
            yield f"{layer}.bias", bias
        if kernel and hidden:
            yield "mlp.conv.weight", self.kernels_of(choice)
        if heads and (tables := self.attn.tables(channels)) is not None:
            for name, table in tables._asdict().items():
                yield f"attn.{name}", table

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
        self.prefix = int(space.class_token)
        if space.class_token:
            self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim))
            nn.init.trunc_normal_(self.cls_token, std=INIT_STD)
        if space.absolute_position:
            self.pos_embed = nn.Parameter(torch.empty(1, self.grid[0] * self.grid[1] + self.prefix, embed_dim))
            nn.init.trunc_normal_(self.pos_embed, std=INIT_STD)
        sizes = (space.stored_embed_dim, space.stored_qkv_dim, space.stored_hidden_dim)
        entangled = space.sharing == "entangled"
        self.blocks = nn.ModuleList(
            SuperBlock(space, *sizes) if entangled else BlockChoices(space) for _ in range(space.depths[-1])
        )
        self.norm = SuperLayerNorm(embed_dim, space.norm_eps)
        self.head = SuperLinear(embed_dim, space.num_classes)

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
        where = grid_geometry((rows, columns), reach, x, self.prefix)
        x = x.flatten(2).transpose(1, 2)  # [B, P, E]
        if self.prefix:
            x = torch.cat([self.cls_token[..., :embed_dim].expand(x.shape[0], -1, -1), x], 1)
        if self.space.absolute_position:
            x = x + resample_positions(self.pos_embed[..., :embed_dim], self.grid, (rows, columns), self.prefix)
        for index, choice in enumerate(block_choices(architecture, self.space)):
            if index and index == architecture.pool_after:
                x, where = halve(x, where), halved(where, reach, x)
            rate = self.drop_path_rates[index] if self.training else 0.0
            block = self.block(index, embed_dim, choice)
            factors = branch_factors(x, rate, None if draws is None else draws[index])
            if self.grad_checkpointing and self.training:
                x = cast(Tensor, checkpoint(block, x, choice, where, self.form, factors, use_reentrant=False))
            else:
                x = block(x, choice, where, self.form, factors)
        x = self.norm(x)
        x = x[:, self.prefix :].mean(1) if self.space.pooling == "mean" else x[:, 0]
        return cast(Tensor, self.head(x, self.space.num_classes))

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
        return {"pos_embed", "cls_token", *kernels_of(self)}

    def subnet_state_dict(self, architecture: Architecture) -> dict[str, Tensor]:
        """Copies of the weights of one subnet, under the names of `Subnet`."""
        self.space.check(architecture)
        return {name: tensor.detach().clone().contiguous() for name, tensor in self.slices(architecture)}

    def slices(self, architecture: Architecture) -> Iterator[tuple[str, Tensor]]:
        """The weights of one subnet under the names of `Subnet`: views of the super weights, where they are not worked out."""
        embed_dim = architecture.embed_dim
        stem = embed_dim, self.space.patch_size_of(architecture), architecture.stem_depth or 0
        found = {f"patch_embed.{name}": weight for name, weight in self.patch_embed.slices(*stem)}
        if self.prefix:
            found["cls_token"] = self.cls_token[..., :embed_dim]
        writers: list[str] = [
            name for name in ("patch_embed.proj.bias", "cls_token") if name in found
        ]  # into the stream, the last so far
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
        weight, bias = self.head.slice(embed_dim, self.space.num_classes)
        yield from found.items()
        yield "norm.weight", self.norm.weight[:embed_dim]
        yield "norm.bias", self.norm.bias[:embed_dim]
        yield "head.weight", weight
        yield "head.bias", bias
