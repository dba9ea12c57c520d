"""A finished evaluation as a trial of Optuna, for its plots and those of optuna-dashboard.

The candidate, sealed, is the truth and all that a search reads. Beside it stand its choices as parameters (`embed_dim`, `depth`,
`num_heads_0`, `mlp_ratio_0`, ...), with none for blocks that it does not have, and its costs as attributes.
"""

from __future__ import annotations

import json
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution

from autoformer.architecture import Architecture
from autoformer.files import sealed
from autoformer.search.candidate import Candidate
from autoformer.space import SearchSpace

CANDIDATE = "candidate"  # the attribute that holds all of it


def trial_of(candidate: Candidate, space: SearchSpace | None, study: str) -> optuna.trial.FrozenTrial:
    """The finished trial of `candidate` in the study of this name. `space` None: without parameters."""
    chosen = {} if space is None else choices_of(candidate.architecture, space)
    facts = {
        "params": candidate.cost.params,
        "flops": candidate.cost.flops,
        **({} if candidate.cost.latency_ms is None else {"latency_ms": candidate.cost.latency_ms}),
        "images": candidate.known,
        "generation": candidate.generation,
    }
    return optuna.create_trial(
        state=optuna.trial.TrialState.COMPLETE,
        value=candidate.score.value,
        params={name: value for name, (value, _) in chosen.items()},
        distributions={name: CategoricalDistribution(listed) for name, (_, listed) in chosen.items()},
        user_attrs={CANDIDATE: json.dumps(sealed({**candidate.to_dict(), "study": study})), **facts},
    )


def choices_of(architecture: Architecture, space: SearchSpace) -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """The choices of an architecture by their names, each with all that the space lists for it.

    What the space leaves no choice of is not among them, nor a size that it contains without listing it (`any_up_to_largest`).
    """
    whole = {
        "embed_dim": (architecture.embed_dim, space.embed_dims),
        "depth": (architecture.depth, space.depths),
        "image_size": (space.image_size_of(architecture), space.image_sizes),
        **{
            name: (getattr(architecture, name), tuple(sorted(listed)))
            for name, listed in space.asked(space.asked_choices).items()
            if name != "mlp_kernel"
        },
    }
    blocks = {
        "num_heads": (architecture.num_heads, space.num_heads),
        "mlp_ratio": (architecture.mlp_ratio, space.mlp_ratios),
        "mlp_kernel": (architecture.kernels, space.mlp_kernels),
    }
    for name, (values, listed) in blocks.items():
        whole |= {f"{name}_{block}": (value, listed) for block, value in enumerate(values)}
    return {name: (value, listed) for name, (value, listed) in whole.items() if len(listed) > 1 and value in listed}
