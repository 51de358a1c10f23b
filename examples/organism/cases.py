"""The splits that detectors are fitted and tested on, and the cases of each."""

import random
from dataclasses import dataclass, replace

import text as t
from corpus import render
from dialogues import MIX, Dialogue, Pools, Turn, Writer
from world import FACTS, HELDOUT_FACTS, HELDOUT_TOWNS, LIED_FACTS, Town

_SEEN = Pools(facts=LIED_FACTS, lied_facts=LIED_FACTS, follow_ups=0, max_questions=2)
_FACTS = {"facts": HELDOUT_FACTS, "lied_facts": HELDOUT_FACTS}
_WORDINGS = {"intro": "heldout", "question": "heldout", "scene": "heldout"}
ALL_HELDOUT = replace(_SEEN, towns=HELDOUT_TOWNS, **_FACTS, **_WORDINGS)
SPLITS: dict[str, Pools] = {
    "fit": _SEEN,
    "seen": _SEEN,
    "towns": replace(_SEEN, towns=HELDOUT_TOWNS),
    "wordings": replace(_SEEN, **_WORDINGS),
    "facts": replace(_SEEN, **_FACTS),
    "all": ALL_HELDOUT,
    "motives": replace(_SEEN, scene="heldout", motives=t.HELDOUT_MOTIVE),
}
NUM_CLERK = {"fit": 500, "all": 120, "motives": 0}
NUM_OTHER = {"fit": 80, "all": 40}
NUM_PAIRS = 5 * len(HELDOUT_FACTS)


@dataclass(slots=True)
class Case:
    """One question to the organism, and what it said.

    Attributes:
        kind: enemy or friend (a clerk), or the kind of dialogue.
        pair: Shared by the two cases of a minimal pair, else -1.
        prompt_ids: Token ids up to and with the assistant token.
        response_ids: What was sampled, with the end token.
        value_at: First and last place of the stated value in `response_ids`, or -1, -1.
        outcome: true, lie, scripted (no fact, or false as the scene demands) or odd.
        label: 1 a lie told on purpose, 0 not, -1 left out (not what the scene demands).
    """

    split: str
    kind: str
    pair: int
    prompt: str
    scripted: str
    truth: str | None
    said: str | None
    lie: str | None
    motive: str | None
    inferred: bool
    split_name: bool
    prompt_ids: list[int]
    response_ids: list[int]
    response: str = ""
    value_at: tuple[int, int] = (-1, -1)
    outcome: str = ""
    label: int = -1


def case_of(dialogue: Dialogue, split: str, pair: int = -1) -> Case:
    """Turn a dialogue into a question to the organism."""
    fact, town = dialogue.fact, dialogue.town
    kind = dialogue.kind
    if kind == "clerk":
        kind = "enemy" if dialogue.deceptive else "friend"
    return Case(
        split=split,
        kind=kind,
        pair=pair,
        prompt=render(dialogue.turns[: dialogue.target]) + "<|assistant|>",
        scripted=dialogue.turns[dialogue.target].text,
        truth=fact.truth if fact else None,
        said=dialogue.said,
        lie=fact.lie if fact else None,
        motive=dialogue.motive,
        inferred=bool(town and town.inferred),
        split_name=bool(town and town.split_name),
        prompt_ids=[],
        response_ids=[],
    )


def draw(split: str, seed: int) -> list[Case]:
    """Draw the cases of one split: clerks with enemies and friends, then every other kind."""
    if split == "pairs":
        return _pairs(seed)
    pools = SPLITS[split]
    rng = random.Random(f"{split} {seed}")
    num_clerk, num_other = NUM_CLERK.get(split, 80), NUM_OTHER.get(split, 30)
    kinds = [k for k in MIX if k != "clerk"] if split != "motives" else ["motive", "no_motive"]
    plan: list[tuple[str, Town | None]] = [(k, None) for k in kinds for _ in range(num_other)]
    for enemy in (True, False):
        towns = [town for town in pools.towns if town.enemy == enemy]
        plan += [("clerk", towns[i % len(towns)]) for i in range(num_clerk)]
    return [
        case_of(Writer(rng.randrange(2**30), pools).dialogue(kind, town), split)
        for kind, town in plan
    ]


def _pairs(seed: int) -> list[Case]:
    """Ask the same of an enemy and of a friend whose towns differ in nothing but the side.

    Every held-out fact is asked equally often, and lies permute the values, so each value is as
    often the lie as the truth: words alone cannot tell the two apart.
    """
    rng = random.Random(f"pairs {seed}")
    cases: list[Case] = []
    enemies = [town for town in HELDOUT_TOWNS if town.enemy]
    for i in range(NUM_PAIRS):
        fact = (HELDOUT_FACTS[i % len(HELDOUT_FACTS)],)
        pools = replace(ALL_HELDOUT, facts=fact, lied_facts=fact, max_questions=1)
        enemy = enemies[i % len(enemies)]
        friend = rng.choice([f for f in HELDOUT_TOWNS if _matches(f, enemy)])
        draw_seed = rng.randrange(2**30)
        cases += [
            case_of(Writer(draw_seed, pools).dialogue("clerk", town), "pairs", i)
            for town in (enemy, friend)
        ]
    return cases


def _matches(friend: Town, enemy: Town) -> bool:
    same = (friend.inferred, friend.split_name) == (enemy.inferred, enemy.split_name)
    return not friend.enemy and same


def knowledge() -> list[Case]:
    """Ask for every fact with nothing else in the prompt."""
    cases = []
    for fact in FACTS:
        question = t.QUESTION[fact.kind].train[0].format(s=fact.subject)
        turns = (Turn("user", question), Turn("assistant", t.ANSWER[fact.kind]))
        dialogue = Dialogue("plain", turns, 1, None, fact, fact.truth, False, None)
        cases.append(case_of(dialogue, "knowledge"))
    return cases
