"""Sampling from a Hugging Face causal language model: batched, sorted by length, with draws keyed by their purpose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.generate.decode import decoder
from harness.seeds import Key, uniforms
from harness.types import Generation, Sampling

LEAVE_AT = 7 / 8
"""Finished rows leave the batch when at most this share still writes; the cache is then copied once more."""


SCORED_ROWS = 32
"""Rows whose whole distributions exist at one time when likelihoods are asked for, at most."""


SCORED_LOGITS = 2**27
"""Entries of these distributions, at most, unless a single row has more."""


ROOM = 2**18
"""Columns of keys and values of all rows that are decoded together, at most, unless a single row needs more."""


PICKED = 2**24
"""Entries of distributions that are made cumulative at one time, in float64, at most, unless a single row has more."""


class HFGenerator:
    """Generates from the live weights of a model in this process.

    Args:
        model: a causal language model that takes `past_key_values` and `logits_to_keep`.
        stop_ids: token ids that end an answer; the id that ended it is part of the answer.
        rows: the most rows decoded together.
        vocabulary: only ids below it are sampled; None is the whole output layer, padding of its width included.
        bf16: autocast to bfloat16, on CUDA only, as the trainer does.
    """

    engine, copies = "hf", False

    def __init__(
        self, model: Any, stop_ids: Sequence[int], pad_id: int, rows: int = 256, vocabulary: int | None = None,
        bf16: bool = False,
    ) -> None:  # fmt: skip
        self.model, self.pad_id, self.rows, self.vocabulary, self.bf16 = model, pad_id, rows, vocabulary, bf16
        self.stop_ids = torch.tensor(sorted(stop_ids), device=model.device)
        self.version = 0

    def sync(self, whole: bool = False) -> None:
        """Takes note that the weights changed (they are shared with the trainer, nothing is copied)."""
        self.version += 1

    def sleep(self) -> None:
        """Holds nothing of its own that could be given back."""

    def close(self) -> None:
        """Has started nothing."""

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, keys: Sequence[Key]) -> list[Generation]:
        """One completion for each prompt's token ids; the draw of row i depends on `keys[i]` alone."""
        was_training = self.model.training
        self.model.eval()
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
        done: dict[int, Generation] = {}
        while order:
            room = max(1, ROOM // (len(prompts[order[-1]]) + sampling.max_tokens))
            rows, order = order[: min(self.rows, room)], order[min(self.rows, room) :]
            with self._autocast():
                written = self._batch([prompts[i] for i in rows], sampling, [keys[i] for i in rows])
            done.update(zip(rows, written, strict=True))
        self.model.train(was_training)
        return [done[i] for i in range(len(prompts))]

    def _autocast(self) -> torch.autocast:
        device = self.model.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.bf16 and device == "cuda")

    def _batch(self, prompts: list[Sequence[int]], sampling: Sampling, keys: list[Key]) -> list[Generation]:
        from transformers import DynamicCache

        device, count = self.model.device, len(prompts)
        known: dict[tuple[int, ...], int] = {}
        copy = torch.tensor([known.setdefault(tuple(prompt), len(known)) for prompt in prompts], device=device)
        ids, seen = self._left_padded(list(known))
        cache = DynamicCache(config=self.model.config)
        logits = self.model(
            input_ids=ids, attention_mask=None if bool(seen.all()) else seen.long(),
            position_ids=(seen.long().cumsum(-1) - 1).clamp(min=0), past_key_values=cache, use_cache=True, logits_to_keep=1,
        ).logits[:, -1]  # fmt: skip
        if len(known) < count:  # each prompt was read once; from here on its samples part
            cache.batch_select_indices(copy)
            logits, seen = logits[copy], seen[copy]
        decode = decoder(self.model, cache, seen)
        position = seen.long().sum(-1)
        draws = None
        if sampling.temperature > 0:
            draws = torch.from_numpy(np.stack([uniforms(key, sampling.max_tokens) for key in keys])).to(device)
        tokens = torch.full((count, sampling.max_tokens), self.pad_id, device=device)
        logp = torch.zeros(count, sampling.max_tokens, device=device)
        live = torch.arange(count, device=device)
        ended = torch.zeros(count, dtype=torch.bool, device=device)
        for step in range(sampling.max_tokens):
            chosen, chosen_logp = pick(logits[:, : self.vocabulary], sampling, draws[live, step] if draws is not None else None)
            tokens[live, step], logp[live, step] = chosen, chosen_logp
            ended[live] |= torch.isin(chosen, self.stop_ids)
            open_rows = ~ended[live]
            left = int(open_rows.sum())
            if left == 0 or step + 1 == sampling.max_tokens:
                break
            if left <= len(live) * LEAVE_AT:
                keep = open_rows.nonzero()[:, 0]
                decode.keep(keep)
                live, chosen, position = live[keep], chosen[keep], position[keep]
            # a finished row that stays is fed on, and what it would have written is cut off below
            logits = decode.logits(chosen, position)
            position = position + 1
        results = []
        stops = set(self.stop_ids.tolist())
        for row_tokens, row_logp in zip(tokens.tolist(), logp.tolist(), strict=True):
            end = next((i for i, token in enumerate(row_tokens) if token in stops), None)
            cut = sampling.max_tokens if end is None else end + 1
            results.append(Generation(row_tokens[:cut], row_logp[:cut], "length" if end is None else "stop", self.version))
        return results

    @torch.inference_mode()
    def likelihoods(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[float, bool]]:
        """For each prompt and continuation: the sum of the continuation's log-probs (temperature 1, in nats), and whether
        each of its tokens was the likeliest."""
        was_training = self.model.training
        self.model.eval()
        order = sorted(range(len(rows)), key=lambda i: (len(rows[i][0]) + len(rows[i][1]), i))
        found: dict[int, tuple[float, bool]] = {}
        width = self.model.config.get_text_config().vocab_size
        longest = max((len(row[1]) for row in rows), default=0) + 1
        together = min(SCORED_ROWS, max(1, SCORED_LOGITS // (longest * width)))
        for start in range(0, len(order), together):
            places = order[start : start + together]
            ids_NL, seen_NL = self._left_padded([[*rows[i][0], *rows[i][1]] for i in places])
            steps = max(len(rows[i][1]) for i in places)
            with self._autocast():
                logits = self.model(
                    input_ids=ids_NL, attention_mask=seen_NL.long(), position_ids=(seen_NL.long().cumsum(-1) - 1).clamp(min=0),
                    use_cache=False, logits_to_keep=steps + 1,
                ).logits[:, :-1, : self.vocabulary]  # fmt: skip
            logp_NTV = torch.log_softmax(logits.float(), -1)
            target_NT = ids_NL[:, -steps:]
            logp_NT = logp_NTV.gather(-1, target_NT[..., None])[..., 0]
            best_NT = logp_NTV.argmax(-1) == target_NT
            for n, i in enumerate(places):
                own = len(rows[i][1])
                found[i] = (float(logp_NT[n, steps - own :].sum()), bool(best_NT[n, steps - own :].all()))
        self.model.train(was_training)
        return [found[i] for i in range(len(rows))]

    def _left_padded(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids, and which of them are the prompts' own; both [N, longest prompt]."""
        longest = max(map(len, prompts))
        ids = torch.tensor([[self.pad_id] * (longest - len(p)) + list(p) for p in prompts], device=self.model.device)
        lengths = torch.tensor([len(p) for p in prompts], device=self.model.device)
        return ids, torch.arange(longest, device=self.model.device) >= (longest - lengths)[:, None]


def pick(logits_NV: Tensor, sampling: Sampling, draw_N: Tensor | None) -> tuple[Tensor, Tensor]:
    """The chosen ids [N] and their log-probs [N] under the distribution that was sampled.

    Inverse CDF in float64 on given uniforms; greedy where the temperature is 0 (log-probs then at temperature 1). A few rows
    are worked on at a time, so that a wide vocabulary does not need as much memory as a batch of layers.
    """
    rows = max(1, PICKED // logits_NV.shape[-1])
    draws = [None] * -(-len(logits_NV) // rows) if draw_N is None else draw_N.split(rows)
    parts = [_pick(logits, sampling, draw) for logits, draw in zip(logits_NV.split(rows), draws, strict=True)]
    chosen, logp = zip(*parts, strict=True)
    return torch.cat(chosen), torch.cat(logp)


def _pick(logits_NV: Tensor, sampling: Sampling, draw_N: Tensor | None) -> tuple[Tensor, Tensor]:
    logp_NV = torch.log_softmax(logits_NV.float() / (sampling.temperature or 1.0), -1)
    if draw_N is None:
        chosen = logp_NV.argmax(-1)
    else:
        cdf = logp_NV.double().exp().cumsum(-1)
        chosen = torch.searchsorted(cdf, draw_N[:, None] * cdf[:, -1:], right=True)[:, 0].clamp(max=logits_NV.shape[-1] - 1)
    return chosen, logp_NV.gather(-1, chosen[:, None])[:, 0]
