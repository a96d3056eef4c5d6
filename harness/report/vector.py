"""A matplotlib SVG made fit for a page: small, described, with ids and rules of its own, and legible in the dark."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count
from xml.sax.saxutils import escape

from harness.report import looks

FONTS = "'DejaVu Sans', Verdana, sans-serif"

EMPTY = r"<g>\s*</g>\s*|<g/>\s*|<defs/>\s*|<defs>\s*</defs>\s*"
LONELY = r"<g>\s*(<(?:path|use)\b[^>]*/>|<text\b[^>]*>[^<]*</text>)\s*</g>"
"""A group of one, which says nothing of it."""


def for_pages(svg: str, name: str, title: str, finding: str) -> str:
    """The SVG with a title and a description, for those who do not see it.

    Every way of drawing becomes a class, so that a few rules at the top state all colours, twice: the second time for
    readers who prefer dark. Rules hold below the id `name`, with which all other ids begin. Coordinates are rounded to a
    tenth of their unit.
    """
    name = re.sub(r"[^a-z0-9]+", "-", name.lower())
    svg = svg[svg.index("<svg ") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\b(?:d|x|y|transform)="[^"]*"', lambda found: re.sub(r"\d+\.\d{2,}", _tenths, found[0]), svg)
    svg = re.sub(r' transform="rotate\(-0 [^"]*"', "", svg)
    svg = re.sub(r"font-family: [^;\"]*; ", "", svg)
    svg = _short_ids(svg, name)
    svg, rules = _classes(svg, name)
    svg = re.sub(r'\bd="[^"]*"', _straight, svg)
    svg = re.sub(r"\n\s+", "\n", svg)
    while svg != (smaller := re.sub(EMPTY, "", re.sub(LONELY, r"\1", svg))):
        svg = smaller
    head = f'<svg id="{name}" role="img" aria-labelledby="{name}-title {name}-desc" font-family="{FONTS}" '
    svg = svg.replace("<svg ", head, 1)
    end = svg.index(">") + 1
    told = f'<title id="{name}-title">{escape(title)}</title>\n<desc id="{name}-desc">{escape(finding)}</desc>'
    return f"{svg[:end]}\n{told}\n<style>\n{rules}</style>{svg[end:]}"


def _straight(path: re.Match[str]) -> str:
    """A path without line breaks; where all of it is straight, pairs of numbers after the first say so themselves."""
    told = re.sub(r"\s+", " ", path[0]).replace(' "', '"')
    return told if re.search("[CQ]", told) else told.replace("L ", "")


def _tenths(number: re.Match[str]) -> str:
    return f"{float(number[0]):.1f}".removesuffix(".0")


def _short_ids(svg: str, name: str) -> str:
    """Only ids that something refers to, under short names."""
    names = {old: f"{name}-{place}" for place, old in enumerate(dict.fromkeys(re.findall(r'(?:href="|url\()#([^")]+)', svg)))}
    svg = re.sub(r'(href="#|url\(#)([^")]+)', lambda found: f"{found[1]}{names[found[2]]}", svg)
    return re.sub(r' id="([^"]*)"', lambda found: f' id="{names[found[1]]}"' if found[1] in names else "", svg)


def _classes(svg: str, name: str) -> tuple[str, str]:
    """The SVG with a class for each style, and the rules that say what the classes are."""
    numbers: Iterator[int] = count()
    styles: dict[str, str] = {}

    def named(found: re.Match[str]) -> str:
        style = found[1]
        if style not in styles:
            styles[style] = f"s{next(numbers)}"
        return f'class="{styles[style]}"'

    svg = re.sub(r'style="([^"]*)"', named, svg)
    light = "".join(f"#{name} .{key} {{ {style} }}\n" for style, key in styles.items())
    dark = ""
    for style, key in styles.items():
        turned = [f"{part}: {looks.DARK[colour.upper()]}" for part, colour in re.findall(r"(fill|stroke): (#[0-9a-f]{6})", style)]
        dark += f"#{name} .{key} {{ {'; '.join(turned)} }}\n" if turned else ""
    joins = f"#{name} * {{ stroke-linejoin: round; stroke-linecap: butt }}\n"
    return svg, f"{joins}{light}@media screen and (prefers-color-scheme: dark) {{\n{dark}}}\n"
