"""What the stages of a pipeline tap: the streams that their own layers see, and their routers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vllm.distributed import get_pp_group
from vllm.distributed.utils import get_pp_indices
from vllm.model_executor.models.utils import PPMissingLayer

from saeguard.integrations.vllm.architectures import architecture_of, layers_of, place_of
from saeguard.monitor.errors import UnsupportedError
from saeguard.monitor.watchlist import Site, Watchlist


@dataclass(frozen=True, slots=True)
class Stage:
    """One of them, which may be the only one."""

    here: list[Site]
    """Watched sites that are tapped here."""
    elsewhere: list[Site]
    """Those that other stages tap."""
    num_tapping: int
    """How many stages tap any."""


def stage_of(model: Any, watchlist: Watchlist) -> Stage:
    """This worker's stage. All workers come to the same view of the whole without asking another:
    whoever waits for one that has failed would hang.

    Raises:
        UnsupportedError: the model has no such layer, or not where vLLM would put it.
    """
    group = get_pp_group()
    entry = architecture_of(model)
    layers = layers_of(model, entry)
    num_stages = group.world_size
    ends = [get_pp_indices(len(layers), stage, num_stages)[1] for stage in range(num_stages)]
    here, elsewhere, tapping = [], [], set()
    for site in watchlist.sites:
        place = place_of(entry, site.hook_point, len(layers))
        stage = sum(end <= place for end in ends)
        tapping.add(stage)
        if stage != group.rank_in_group:
            elsewhere.append(site)
        elif isinstance(layers[place], PPMissingLayer):
            raise UnsupportedError(f"layer {place} is not on the pipeline's stage that vLLM says")
        else:
            here.append(site)
    return Stage(here, elsewhere, len(tapping))
