"""Counter-based randomness: every draw is a pure function of what it is for.

A key names the draw (run seed, purpose, prompt, visit, sample ...), never the step or the place in a batch, so runs
with other batch shapes stay paired and a resumed run draws what an uninterrupted one would have drawn.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np

Key = tuple[str | int, ...]


def digest(*parts: str | int) -> int:
    """128 bits that depend on every part and on where one part ends and the next begins."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")


def uniforms(key: Key, count: int) -> np.ndarray:
    """`count` float64 uniforms in [0, 1) from Philox, keyed by `key`."""
    return np.random.Generator(np.random.Philox(key=digest(*key))).random(count)


def python_random(*key: str | int) -> random.Random:
    """A `random.Random` for shuffles and choices, keyed like `uniforms`."""
    return random.Random(digest(*key))
