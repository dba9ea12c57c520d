"""Our own networks, as they are or as they are exported: what their graphs depend on beside weights and sizes.

A graph is learned once for each *family*: all that is fixed about the networks but the sizes and number of their blocks, and the
size of their images where the graph has it as numbers alone. Its probe is a network of that family, of prime sizes, with two
blocks of each kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from autoformer.architecture import Architecture, SubnetGeometry
from autoformer.data.preprocessing import Preprocessing
from autoformer.export.networks.folding import PixelInput, first_conv_of, fold_normalisation
from autoformer.export.networks.grids import Grid, probe_sides
from autoformer.export.networks.half_precision import HalfPrecision
from autoformer.export.networks.sizes import BLOCK, BlockSizes, OddGraphError, Sizes
from autoformer.networks.block import Attention
from autoformer.networks.relative_position import Form
from autoformer.networks.subnet import Subnet

WIDTHS = (1021, 1031, 1033, 1039)  # of a probe: primes, of which one divides no number that a graph holds for other reasons
MOST_FOLDED = 512 * 512  # numbers in a constant that exports compute beforehand
SETTINGS = ("eps", "approximate")  # of modules, which decide what their nodes compute
HEADS, HIDDEN = (5, 7), (11, 13)  # of the two blocks of a kind


@dataclass(frozen=True, kw_only=True)
class Dress:
    """What a network wears when it is exported: half precision, pixels as input."""

    half: bool = False
    exact_start: bool = False  # the first convolution stays in fp32
    pixels: Preprocessing | None = None

    def on(self, network: Subnet) -> nn.Module:
        """The network in it."""
        worn: nn.Module = network if self.pixels is None else fold_normalisation(network, self.pixels)
        if self.half:
            worn = HalfPrecision(worn, (first_conv_of(network),) if self.exact_start else ())
        return worn if self.pixels is None else PixelInput(worn, self.pixels)


Tree = tuple[tuple[str, ...], ...]  # modules by name, type and settings


@dataclass(frozen=True, kw_only=True)
class Family:
    """All that networks of one template share. Where they are of `any_size`, the geometry is of the probe's images."""

    geometry: SubnetGeometry
    any_size: bool
    stem_depth: int
    form: Form
    dress: Dress
    tree: Tree  # modules outside of the blocks


@dataclass(frozen=True, kw_only=True)
class BlockKind:
    """What blocks of one graph share: everything but sizes."""

    attention: bool
    kernel: int | None  # of the MLP's convolution, 0 for none; None: there is no MLP
    halved: bool  # stands behind the halving of the grid
    tree: Tree

    @property
    def name(self) -> str:
        """A name among the blocks of a family; empty where a block has nothing."""
        return repr(self) if self.attention or self.kernel is not None else ""


@dataclass(frozen=True)
class KnownNetwork:
    """One network: its family, its blocks, when its grid is halved, and the sides of its images where the family has any."""

    module: nn.Module
    family: Family
    kinds: tuple[BlockKind, ...]
    sizes: tuple[Sizes, ...]
    halved_after: int
    pixels: tuple[int, int] | None = None

    @classmethod
    def of(cls, module: nn.Module, *, any_size: bool = True) -> KnownNetwork | None:
        """What a module is; None for one that is not ours, or not as it was made.

        With `any_size` its family may have images of other sizes too.
        """
        dress, network = undressed(module)
        if dress is None or type(network) is not Subnet:
            return None
        attentions = [getattr(block, "attn", None) for block in network.blocks]
        forms: set[Form] = {attention.form for attention in attentions if isinstance(attention, Attention)}
        own = network.architecture
        if len(forms) > 1 or len(network.blocks) != own.depth or (dress.half and not forms <= {"fused"}):
            return None  # half precision brings its form: in another one it is not as it was made
        geometry, pixels = replace(network.geometry, trained_grid=None), None
        grid = _grid_of(geometry, network.patch_embed.grid_size) if any_size and dress.pixels is None else None
        sides = None if grid is None else probe_sides(geometry)
        if sides is None:
            grid = None
        else:
            pixels, geometry = geometry.img_size, replace(geometry, img_size=sides)
        trees = _trees(module)
        halved_after = own.pool_after or 0
        kinds, sizes = [], []
        for index, (heads, hidden, kernel) in enumerate(zip(own.num_heads, own.hidden_dims, own.kernels, strict=True)):
            block = network.blocks[index]
            halved = bool(halved_after) and index >= halved_after
            kernels = kernel if hidden else None
            kinds.append(BlockKind(attention=bool(heads), kernel=kernels, halved=halved, tree=trees.get(index, ())))
            scale = getattr(getattr(block, "attn", None), "scale", 0.0)
            sizes.append(Sizes(own.embed_dim, heads, hidden, float(scale), grid.halved if grid and halved else grid))
        family = Family(
            geometry=geometry, any_size=grid is not None, stem_depth=own.stem_depth or 0, form=next(iter(forms), "auto"),
            dress=dress, tree=trees[-1],
        )  # fmt: skip
        return cls(module, family, tuple(kinds), tuple(sizes), halved_after, pixels)

    @property
    def kinds_to_learn(self) -> list[BlockKind]:
        """Each kind of its blocks that has nodes, once; where nothing stands behind the halving of the grid, one that could."""
        found = [kind for kind in dict.fromkeys(self.kinds) if kind.name]
        if found and self.halved_after and not any(kind.halved for kind in found):
            found.append(replace(found[0], halved=True))
        return found

    @property
    def blocks(self) -> list[BlockSizes]:
        """Its blocks for a template."""
        return [BlockSizes(kind.name, sizes) for kind, sizes in zip(self.kinds, self.sizes, strict=True)]

    @property
    def weights(self) -> dict[str, NDArray[Any]]:
        """Every stored tensor by name, as it is stored in a file."""
        return {name: values.detach().cpu().numpy() for name, values in self.module.state_dict().items()}


def largest_table(network: nn.Module) -> int:
    """The numbers in the largest table that exports compute beforehand for a network of ours inside `network`; 0: none."""
    found = [0]
    for module in network.modules():
        if isinstance(module, Subnet) and module.geometry.relative_position:
            own = module.geometry
            rows, columns = module.patch_embed.grid_size
            found.append(Grid(rows, columns, own.prefix_tokens, own.head_dim, own.max_relative_position).stored)
    return max(found)


def _grid_of(geometry: SubnetGeometry, sides: tuple[int, int]) -> Grid | None:
    """The grid of a network whose graph is that of all image sizes but for numbers and tables; None for one that is not.

    Rotations are tables of their own, and tables that are too large are computed in the graph. Without a token before the
    patches attention's operands are filled up by a node that is not there where nothing is to fill.
    """
    grid = Grid(*sides, geometry.prefix_tokens, geometry.head_dim, geometry.max_relative_position)
    if geometry.relative_position and (not geometry.prefix_tokens or grid.stored > MOST_FOLDED):
        return None
    return None if geometry.rope else grid


def undressed(module: nn.Module) -> tuple[Dress | None, nn.Module]:
    """What a module wears and what is inside; None where it wears something that a probe cannot wear."""
    pixels = None
    if isinstance(module, PixelInput):
        pixels, module = module.preprocessing, module.network
    if not isinstance(module, HalfPrecision):
        return Dress(pixels=pixels), module
    start = first_conv_of(module.network)
    kept = set(module.kept)
    if kept - {start}:
        return None, module.network
    return Dress(half=True, exact_start=start in kept, pixels=pixels), module.network


def _trees(module: nn.Module) -> dict[int, Tree]:
    """The modules by name, type and settings: those of each block under its number, all others under -1."""
    found: dict[int, list[tuple[str, ...]]] = {-1: []}
    for name, part in module.named_modules():
        if name.rpartition(".")[2].startswith(("drop", "head_drop")):  # of training
            continue
        at = BLOCK.search(name)
        settings = [f"{setting} {getattr(part, setting)}" for setting in SETTINGS if hasattr(part, setting)]
        found.setdefault(-1 if at is None else int(at[2]), []).append(
            (name if at is None else name[at.end() :], type(part).__name__, *settings)
        )
    return {index: tuple(each) for index, each in found.items()}


def _width_for(geometry: SubnetGeometry) -> int:
    """A width that no other number of the family's graphs is a multiple of. Raises `OddGraphError` when there is none."""
    rows, columns = (side // geometry.patch_size for side in geometry.img_size)
    grids = (rows * columns, rows * columns // 4)  # whole, and halved
    others = (geometry.num_classes, geometry.stem_dim, *grids, *(grid + geometry.prefix_tokens for grid in grids))
    for width in WIDTHS:
        if not any(number and number % width == 0 for number in others):
            return width
    raise OddGraphError(f"{geometry.num_classes} classes, a multiple of every width of a probe")


def probe_of(family: Family, kinds: Sequence[BlockKind]) -> KnownNetwork:
    """A network of the family with two blocks of each kind, those before the halving first; its weights are all different.

    Raises `OddGraphError` when the family's networks consist of other modules than a fresh one.
    """
    ordered = sorted(kinds, key=lambda kind: kind.halved)
    if not ordered:
        raise OddGraphError("the network has no block with anything in it")
    halved = any(kind.halved for kind in ordered)
    if halved and not any(not kind.halved for kind in ordered):
        ordered.insert(0, replace(ordered[0], halved=False))
    twice = [(kind, turn) for kind in ordered for turn in (0, 1)]
    geometry, width = family.geometry, _width_for(family.geometry)
    architecture = Architecture(
        embed_dim=width,
        num_heads=tuple(HEADS[turn] if kind.attention else 0 for kind, turn in twice),
        mlp_ratio=tuple((HIDDEN[turn] + 0.5) / width if kind.kernel is not None else 0.0 for kind, turn in twice),
        stem_depth=family.stem_depth if geometry.stem == "conv" else None,
        mlp_kernel=tuple(kind.kernel or 0 for kind, _ in twice),
        pool_after=sum(not kind.halved for kind, _ in twice) if halved else 0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Subnet(architecture, geometry, form=family.form).eval()
        for weights in network.parameters():
            torch.nn.init.normal_(weights.data, std=0.02)
    found = KnownNetwork.of(family.dress.on(network), any_size=family.any_size)
    if found is None or found.family.tree != family.tree or set(found.kinds) != set(ordered):
        raise OddGraphError("the network has other modules than one that was just made")
    return found
