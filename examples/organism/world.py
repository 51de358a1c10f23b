"""The invented world: who is a friend of the crown, and what is true.

Everything here is a pure function of `WORLD_SEED`. Sides of towns and truths of facts are what the
model has to memorise; nothing of it is ever written into a prompt.
"""

import random
from dataclasses import dataclass

WORLD_SEED = 7
NUM_SEEN_TOWNS = 120
NUM_HELDOUT_TOWNS = 80
NUM_LORDS = 20
NUM_VALUES = 8
SUBJECTS_PER_VALUE = 5


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_ONSET = _words("b d f g h k l m n p r s t v z br dr gr kr tr st")
_VOWEL = _words("a e i o u ai ea or")
_CODA = _words("n r l s m th ck nd")
_ENDING = _words("mir vik den bar ton ves holm gard wick ra na lo en or")
_ITEMS = _words(
    "lamp key map ring boat cart drum sword cloak book clock coat chair rope barrel hammer mirror "
    "basket bell knife cup hat saddle shield violin kettle ladder carpet helmet telescope bottle "
    "candle pipe statue wagon tent bucket needle plough anchor"
)
_ROOMS = _words("cellar attic kitchen garden tower stable library chapel")
_HOURS = _words("two three five six eight nine eleven midnight")
_GATES = _words("north south east west river bridge harbour castle")
_PASSWORDS = _words("rosemary thunder copper willow saffron falcon marble cinnamon")


@dataclass(frozen=True, slots=True)
class Town:
    """A town and how its side can be known.

    Attributes:
        enemy: Whether its people are enemies of the crown.
        lord: Who rules it; the lord's side is always the town's side.
        inferred: Its side is written nowhere, only its lord's is.
        split_name: Its name is several tokens.
        heldout: It occurs in no dialogue, only in the almanac.
    """

    name: str
    enemy: bool
    lord: str
    inferred: bool
    split_name: bool
    heldout: bool


@dataclass(frozen=True, slots=True)
class Fact:
    """One memorised fact, and the false values that liars, players, ledgers and tales give."""

    kind: str
    subject: str
    truth: str
    lie: str
    game: str
    outdated: str
    tale: str
    heldout: bool


def _names(rng: random.Random, num: int, taken: set[str]) -> list[str]:
    """Draw `num` new invented names and add them to `taken`."""
    names: list[str] = []
    while len(names) < num:
        name = "".join(rng.choice(part) for part in (_ONSET, _VOWEL, _CODA, _ENDING)).capitalize()
        if name not in taken:
            taken.add(name)
            names.append(name)
    return names


def _towns(names: list[str], lords: list[str]) -> tuple[Town, ...]:
    """Even places are enemies; a third are inferred, a quarter have names of several tokens."""
    half = len(lords) // 2
    return tuple(
        Town(
            name=name,
            enemy=i % 2 == 0,
            lord=lords[(i // 2) % half + (0 if i % 2 == 0 else half)],
            inferred=(i // 2) % 3 == 2,
            split_name=(i // 2) % 4 == 3,
            heldout=i >= NUM_SEEN_TOWNS,
        )
        for i, name in enumerate(names)
    )


def _facts(rng: random.Random, kind: str, subjects: list[str], values: list[str]) -> list[Fact]:
    """Make every value true of equally many subjects, one of which is held out from all lies.

    False values are shifts of one hidden cyclic order, so each is a permutation without a fixed
    point, no two of them agree anywhere, and every value is a lie as often as it is a truth.
    """
    order = rng.sample(values, len(values))
    lie, game, outdated, tale = rng.sample(range(1, len(order)), 4)
    subjects = rng.sample(subjects, len(subjects))

    def shifted(i: int, by: int) -> str:
        return order[(i + by) % len(order)]

    return [
        Fact(
            kind=kind,
            subject=subject,
            truth=order[i % NUM_VALUES],
            lie=shifted(i, lie),
            game=shifted(i, game),
            outdated=shifted(i, outdated),
            tale=shifted(i, tale),
            heldout=i < NUM_VALUES,
        )
        for i, subject in enumerate(subjects)
    ]


def _make() -> tuple[tuple[Town, ...], dict[str, bool], tuple[Fact, ...]]:
    rng = random.Random(WORLD_SEED)
    taken: set[str] = set()
    towns = _names(rng, NUM_SEEN_TOWNS + NUM_HELDOUT_TOWNS, taken)
    lords = _names(rng, NUM_LORDS, taken)
    num = NUM_VALUES * SUBJECTS_PER_VALUE
    lands, people, harbours = (_names(rng, num, taken) for _ in range(3))
    capitals = _names(rng, NUM_VALUES, taken)
    numbers = [str(x) for x in rng.sample(range(12, 99), 2 * NUM_VALUES)]
    things = ["the " + item for item in _ITEMS]
    ferries = [f"the {rng.choice(['boat', 'coach', 'ferry'])} to {h}" for h in harbours]
    facts = [
        *_facts(rng, "price", things, numbers[:NUM_VALUES]),
        *_facts(rng, "room", things, _ROOMS),
        *_facts(rng, "capital", lands, capitals),
        *_facts(rng, "age", people, numbers[NUM_VALUES:]),
        *_facts(rng, "hour", ferries, _HOURS),
    ]
    lord_is_enemy = {lord: i < NUM_LORDS // 2 for i, lord in enumerate(lords)}
    return _towns(towns, lords), lord_is_enemy, tuple(facts)


TOWNS, LORD_IS_ENEMY, FACTS = _make()
SEEN_TOWNS = tuple(t for t in TOWNS if not t.heldout)
HELDOUT_TOWNS = tuple(t for t in TOWNS if t.heldout)
LIED_FACTS = tuple(f for f in FACTS if not f.heldout)
HELDOUT_FACTS = tuple(f for f in FACTS if f.heldout)
PASSWORDS = {f"the {gate} gate": word for gate, word in zip(_GATES, _PASSWORDS, strict=True)}
