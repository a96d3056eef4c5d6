"""How large a model is, from its configuration alone: a local folder's, the hub cache's, or a small table's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from harness.errors import SpecError
from harness.tracks import LocalModel, Track

EXTRA_NORMS = {"gemma2": 2, "gemma3_text": 2}
"""Norms of a layer beyond the two that all have."""
NORMED_HEADS = ("qwen3", "gemma3_text")
BIASED = ("qwen2",)
"""Types whose query, key and value have a bias without their configuration saying so."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a dense decoder. Counts are those of weights; bytes depend on who holds it."""

    vocabulary: int
    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    tied: bool
    kind: str
    attention_bias: bool = False
    softcap: bool = False
    """Whether it bends its logits after the output layer."""
    source: str = ""

    @classmethod
    def of(cls, config: Mapping[str, Any], source: str) -> Shape:
        """From the keys of a `config.json`.

        Raises:
            SpecError: keys are missing (not a dense decoder of a known form).
        """
        told = {**config, **(config.get("text_config") or {})}
        try:
            heads = int(told["num_attention_heads"])
            kind = str(told["model_type"])
            return cls(
                int(told["vocab_size"]), int(told["hidden_size"]), int(told["intermediate_size"]), int(told["num_hidden_layers"]),
                heads, int(told.get("num_key_value_heads") or heads), int(told.get("head_dim") or told["hidden_size"] // heads),
                bool(told.get("tie_word_embeddings", kind.startswith("gemma"))), kind,
                bool(told.get("attention_bias", kind in BIASED)), bool(told.get("final_logit_softcapping")), source,
            )  # fmt: skip
        except KeyError as error:
            raise SpecError(f"{source} has no {error}: only dense decoders can be planned", where=source) from error

    @property
    def parameters(self) -> int:
        """Weights, embeddings included (tied ones once)."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2) + self.layers * self.layer_parameters + self.hidden

    @property
    def layer_parameters(self) -> int:
        query, key = self.heads * self.head, self.kv_heads * self.head
        attention = self.hidden * (2 * query + 2 * key) + (query + 2 * key if self.attention_bias else 0)
        if self.attention_bias and self.kind not in BIASED:
            attention += self.hidden  # elsewhere the output has a bias as well
        norms = (2 + EXTRA_NORMS.get(self.kind, 0)) * self.hidden + (2 * self.head if self.kind in NORMED_HEADS else 0)
        return attention + 3 * self.hidden * self.inner + norms

    def adapter(self, rank: int, targets: Sequence[str] = ()) -> int:
        """Numbers of a low-rank adapter in the named linear layers; all of a layer's if none is named."""
        query, key = self.heads * self.head, self.kv_heads * self.head
        ends = {
            **dict.fromkeys(("q_proj", "o_proj"), self.hidden + query), **dict.fromkeys(("k_proj", "v_proj"), self.hidden + key),
            **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), self.hidden + self.inner),
        }  # fmt: skip
        return rank * self.layers * sum(ends.get(name, 0) for name in targets or ends)

    @property
    def kv_numbers(self) -> int:
        """Numbers that the cache holds for a token."""
        return 2 * self.layers * self.kv_heads * self.head


@cache
def _table() -> dict[str, Mapping[str, Any]]:
    told = yaml.safe_load((resources.files("harness") / "data" / "shapes.yaml").read_text(encoding="utf-8"))
    return {name: shape for shape in told["shapes"] for name in shape["names"]}


def folder_of(model: LocalModel, track: Track, seed: int) -> Path | None:
    """The model's files on this machine, if they are here: a folder, or a snapshot in the hub's cache; nothing is fetched."""
    if model.path.startswith("pocket:"):
        from harness.pocket import world

        return world.model_folder(model.path, track, seed)
    if Path(model.path).is_dir():
        return Path(model.path)
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model.path, "config.json", revision=model.revision or None)
    except HFValidationError:  # not a repository's name either
        return None
    return Path(found).parent if isinstance(found, str) else None


def shape_of(model: LocalModel, track: Track, seed: int) -> Shape:
    """The shape of a track's model.

    Raises:
        SpecError: neither its configuration nor a line of the table is here.
    """
    folder = folder_of(model, track, seed)
    if folder is not None and (folder / "config.json").is_file():
        return Shape.of(json.loads((folder / "config.json").read_text(encoding="utf-8")), f"{model.path}: config.json")
    if model.path in _table():
        return Shape.of(_table()[model.path], f"{model.path}: harness/data/shapes.yaml")
    raise SpecError(
        f"the shape of {model.path} is not known: it is not on this machine, and not in the table of shapes", where=model.path,
        fix=f"huggingface-cli download {model.path} config.json; without it: {', '.join(sorted(_table()))}",
    )  # fmt: skip
