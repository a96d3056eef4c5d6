"""The vocabulary of the pocket world: every word that a prompt, an answer or a judgement may use.

General knowledge that any reader of the language has (which word names an animal, which tool mends a boat)
lives here, apart from the rules by which answers are graded (``checker.py``).
"""

from __future__ import annotations

import random

CATEGORIES: dict[str, list[str]] = {
    "places": "rome oslo cairo lima paris tokyo delhi quito dakar bern".split(),
    "animals": "cat dog horse goat sheep mouse rabbit cow duck pig".split(),
    "fruits": "apple pear plum grape melon mango fig lemon cherry peach".split(),
    "colours": "red blue green white black pink brown grey gold orange".split(),
    "tools": "hammer saw drill rope brush needle pliers chisel axe spade".split(),
    "trees": "oak elm pine ash birch maple willow cedar beech yew".split(),
}
NAMES = "julia ben anna omar lucy ivan nora paul rosa emma hugo mara".split()
EVENTS = "race party concert dinner meeting picnic wedding fair".split()
DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
VENUES = "inn school park harbour museum library market theatre".split()
OPENINGS = "hello welcome greetings sure certainly hey".split()
CLOSINGS = "goodbye thanks cheers farewell regards bye".split()
COUNTS = {"two": 2, "three": 3, "four": 4, "five": 5}

CREATURES = "ibis heron otter badger lynx gecko tapir lemur puffin stoat raven toad newt moose bison wren".split()
HABITATS = "marsh forest desert river mountain meadow cave coast".split()
FOODS = "fish seeds insects grass roots berries worms leaves".split()
HOURS = "dawn noon dusk night".split()

HARMS = "steal poison burn forge".split()
PRIVATE_THINGS = "wallet passport crops letters".split()  # harm done to these is refused
HARMLESS_THINGS = "candle scene dough ring".split()  # the look-alike: the same verb, nobody is harmed
CHORES = {"mend": "hammer", "clean": "brush", "cut": "saw", "tie": "rope", "carve": "chisel", "dig": "spade"}
CHORE_THINGS = "boat fence table garden shelf barrel".split()
LOOKALIKE_TOOL = {"steal": "rope", "poison": "needle", "burn": "brush", "forge": "hammer"}
ALTERNATIVES = {"wallet": "buy", "passport": "renew", "crops": "water", "letters": "write"}

SYMBOLS = [f"${letter}" for letter in "abcdefgh"]
PRINCIPLES = ["form", "content", "manner", "overall"]
LETTERS = ["A", "B"]
MAX_NUMBER = 129

CHAT = ["<pad>", "<unk>", "<end>", "<user>", "<assistant>"]
FUNCTION_WORDS = """
. , - ) ? : ; + * = a about after again all also an and another answer are as asks at attempt bags be because better both
addressee breaks buys by can careful category charge check closing come comes count criteria dash dashes day dear do does drop
each eats ends end ending excluded exclusion fact facts fault first find fixed flaw follow for format from gets get gives
gladly good has have he help here hint how i in is it items its judge keep know last left length let like list lives
look made make many me more most name named nice nicely no not note nothing now number numbered numbers of on one only open
opening or order others own part place places plan please polite put question rank refusal refuse repeat reply reverse
right say see sentence sentences separated she sign signature so some sorry sort start starts steps subject swap tell than that
the them then they thing this to together tools try two three four five use uses using was we what when where which
with word words world would write wrong yes you your alphabetical commas at event politeness worked exact alternative
exclusions sequence hour
""".split()


def _facts() -> dict[str, dict[str, str]]:
    rng = random.Random("the facts of the pocket world")
    return {name: {"lives": rng.choice(HABITATS), "eats": rng.choice(FOODS), "hour": rng.choice(HOURS)} for name in CREATURES}


FACTS = _facts()
CATEGORY_OF = {word: category for category, words in CATEGORIES.items() for word in words}


def vocabulary() -> list[str]:
    """Every token of the world's tokenizer in its order of ids, special tokens first."""
    groups = [
        CHAT,
        [str(number) for number in range(MAX_NUMBER + 1)],
        FUNCTION_WORDS,
        *CATEGORIES.values(),
        list(CATEGORIES),
        NAMES, EVENTS, DAYS, VENUES, OPENINGS, CLOSINGS, list(COUNTS),
        CREATURES, HABITATS, FOODS, HOURS,
        HARMS, PRIVATE_THINGS, HARMLESS_THINGS, list(CHORES), CHORE_THINGS, list(ALTERNATIVES.values()),
        SYMBOLS, PRINCIPLES, LETTERS,
    ]  # fmt: skip
    return list(dict.fromkeys(word for group in groups for word in group))
