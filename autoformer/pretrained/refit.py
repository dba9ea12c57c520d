"""The weights of a supernet under another space: other image and patch sizes, kernels, stems and places of halving.

What a network computed that both spaces have, it computes still: kernels are the centres of the largest, so larger ones get
zeros around them, and where there were none they begin as kernels that change nothing; of the convolutions of a stem those are
kept that the space has; halving has no weights. Absolute positions are stored for the finest grid. Where the space has finer
patches beside those that were trained, the stored positions are those that give the trained ones back on their own grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoformer.networks.grid import identity_kernels
from autoformer.networks.positions import resample_positions
from autoformer.networks.relative_position import Tables, spread_edge
from autoformer.networks.stem import super_stem
from autoformer.networks.super_layers import SuperBlock
from autoformer.networks.supernet import Supernet
from autoformer.space import SearchSpace


def refit(supernet: Supernet, space: SearchSpace) -> None:
    """Makes `space` the one of `supernet`, in place; both must store the same widths, depth and stem."""
    old, supernet.space = supernet.space, space
    with torch.no_grad():
        grid, old_grid = space.stored_grid, old.stored_grid
        if old.absolute_position and grid != old_grid:
            finer = len(space.patch_choices) > 1 and grid > old_grid
            resized = finer_positions if finer else _resized
            supernet.pos_embed = nn.Parameter(resized(supernet.pos_embed, old_grid, grid, supernet.prefix).clone())
        for block in (module for module in supernet.modules() if isinstance(module, SuperBlock)):
            if old.relative_position and grid > old_grid:
                for name in Tables._fields:
                    spread_edge(getattr(block.attn, name), old_grid - 1)
            if old.mlp_kernels[-1] != space.mlp_kernels[-1]:
                _change_kernels(block, old.mlp_kernels[-1], space.mlp_kernels[-1])
        if space.stem == "conv" and (old.patch_choices, old.stem_depths[-1]) != (space.patch_choices, space.stem_depths[-1]):
            stem, stored = super_stem(space), supernet.patch_embed.state_dict()
            stem.to(supernet.norm.weight).load_state_dict({name: stored[name] for name in stem.state_dict()})
            supernet.patch_embed = stem.train(supernet.training)


def _resized(positions: Tensor, old: int, new: int, prefix: int) -> Tensor:
    return resample_positions(positions, (old, old), (new, new), prefix)


def finer_positions(positions: Tensor, old: int, new: int, prefix: int) -> Tensor:
    """Positions [1, prefix + old², E] for the finer grid `new`, of which `resample_positions` makes them again."""
    resized = _resized(positions, old, new, prefix)
    missing = (positions - _resized(resized, new, old, prefix))[0, prefix:].unflatten(0, (old, old)).double()  # [R, C, E]
    lines = torch.eye(new, dtype=torch.float64, device=positions.device)[:, None, None]  # resampling works line by line
    coarser = F.interpolate(lines, size=(1, old), mode="bicubic", antialias=True, align_corners=False)[:, 0, 0].t()
    back = torch.linalg.pinv(coarser)  # [new, old]
    added = torch.einsum("ar,bc,rce->abe", back, back, missing).flatten(0, 1).to(resized)
    return torch.cat([resized[:, :prefix], resized[:, prefix:] + added], 1)


def _change_kernels(block: SuperBlock, old: int, new: int) -> None:
    if not new:
        del block.kernels
    elif not old:
        block.kernels = nn.Parameter(identity_kernels(block.fc1.weight.shape[0], new).to(block.fc1.weight))
    else:
        margin = (new - old) // 2  # below 0 where the outermost are cut off
        block.kernels = nn.Parameter(F.pad(block.kernels, (margin,) * 4).clone())
