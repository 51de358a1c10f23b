"""The cases of scenes that detectors are fitted to and tested on, beside all else that is said."""

import random

import cases
from cases import ALL_HELDOUT, SPLITS, Case, case_of
from dialogues import Dialogue, Pools
from scenes import MIX, TWINS, SceneWriter
from world import Town

SCENE_SPLITS = ("seen", "towns", "wordings", "all", "town_pairs", "pairs")
_POOLS_OF_PAIRS = {"town_pairs": SPLITS["towns"], "pairs": ALL_HELDOUT}
NUM_OF_KIND = {"fit": 150, "all": 80}
NUM_PAIRS = 150


def draw(split: str, seed: int) -> list[Case]:
    """Draw the cases of one split: scenes of every kind, and what else the organism answers."""
    rng = random.Random(f"scenes {split} {seed}")
    if split in _POOLS_OF_PAIRS:
        pools = _POOLS_OF_PAIRS[split]
        pairs = [pair for kind in TWINS for pair in _pairs(kind, pools, rng)]
        return [case_of(each, split, i) for i, pair in enumerate(pairs) for each in pair]
    scenes = [
        case_of(SceneWriter(rng.randrange(2**30), SPLITS[split]).scene(kind), split)
        for kind in MIX
        for _ in range(NUM_OF_KIND.get(split, 50))
    ]
    # The kinds of the same names in dialogues.py have words of their own.
    return scenes + [case for case in cases.draw(split, seed) if case.kind not in MIX]


def _pairs(kind: str, pools: Pools, rng: random.Random) -> list[tuple[Dialogue, Dialogue]]:
    """Draw scenes and their twins, the same in all but two towns that are held out and alike."""
    pairs: list[tuple[Dialogue, Dialogue]] = []
    while len(pairs) < NUM_PAIRS:
        seed = rng.randrange(2**30)
        scene = SceneWriter(seed, pools).scene(kind)
        assert scene.town
        town = rng.choice([each for each in pools.towns if _differ_in_side(each, scene.town)])
        twin = SceneWriter(seed, pools).scene(TWINS[kind], town)
        if _without_town(scene) == _without_town(twin):
            pairs.append((scene, twin))
    return pairs


def _differ_in_side(town: Town, other: Town) -> bool:
    alike = (town.inferred, town.split_name) == (other.inferred, other.split_name)
    return alike and town.enemy != other.enemy


def _without_town(dialogue: Dialogue) -> list[tuple[str, str]]:
    name = dialogue.town.name if dialogue.town else ""
    return [(turn.role, turn.text.replace(name, "{t}")) for turn in dialogue.turns]
