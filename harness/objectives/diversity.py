"""Which of several texts differ most, by edit distance. Plain Python, so that a method can use it while it collects."""

from __future__ import annotations

from collections.abc import Sequence


def edit_distance(first: str, second: str) -> int:
    """Fewest insertions, deletions and replacements of a character that turn one text into the other.

    A column of the distance table is kept as its steps of +1 and -1, a bit each, so a character of `second` costs a few
    operations on integers as long as `first`. Sources: Myers 1999 (J. ACM 46) and Hyyro 2003 for the distance of whole texts.
    """
    if not first:
        return len(second)
    all_bits, last = (1 << len(first)) - 1, 1 << (len(first) - 1)
    places: dict[str, int] = {}
    for place, character in enumerate(first):
        places[character] = places.get(character, 0) | 1 << place
    up, down, distance = all_bits, 0, len(first)
    for character in second:
        same = places.get(character, 0)
        level = (((same & up) + up) ^ up) | same | down
        right_up, right_down = (down | ~(level | up)) & all_bits, up & level
        distance += bool(right_up & last) - bool(right_down & last)
        right_up, right_down = right_up << 1 | 1, right_down << 1
        vertical = same | down
        up, down = (right_down | ~(vertical | right_up)) & all_bits, right_up & vertical & all_bits
    return distance


def farthest(texts: Sequence[str], count: int) -> list[int]:
    """Places of at most `count` distinct texts: the first, then again and again the one farthest from those chosen.

    A text's distance is that to the nearest one chosen; of equally far ones the first is taken. Repeats are left out, so
    fewer come back where fewer are distinct.
    """
    chosen = [0]
    distance = [edit_distance(texts[0], text) for text in texts]
    while len(chosen) < count and max(distance):
        chosen.append(distance.index(max(distance)))
        added = [edit_distance(texts[chosen[-1]], text) if left else 0 for text, left in zip(texts, distance, strict=True)]
        distance = [min(pair) for pair in zip(distance, added, strict=True)]
    return chosen
