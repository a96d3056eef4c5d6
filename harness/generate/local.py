"""A teacher without a server: weights in this process that answer what an OpenAI-compatible server would be asked.

Axes: P rows of ids, C positions that are scored, H hidden width, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from harness.clients.cache import ReplyCache, key_of
from harness.clients.metered import Client, Tariff
from harness.contestants import content_of
from harness.generate.hf import HFGenerator
from harness.generate.student import ChatCodec
from harness.ledger import Ledger
from harness.objectives.logprobs import gather_logprobs
from harness.seeds import Key, digest
from harness.train.models import StreamedLM
from harness.types import Failure, Sampling

SHARED_TOKENS = 32768
"""New tokens of all rows that are written together."""
Reply = dict[str, Any] | Failure


def weights_revision(model: Any, folder: Path) -> str:
    """Names what a loaded model would answer: the hub's commit it is of, or a digest of its folder; with its precision."""
    commit = getattr(model.config, "_commit_hash", None)
    return f"{commit or content_of(folder)['weights']}"[:16] + f"-{str(model.dtype).removeprefix('torch.')}"


class LocalEndpoint:
    """Weights that speak the protocol: chats, also with log-probs of their first token, and log-probs of given tokens.

    Args:
        model: a Hugging Face causal language model.
        codec: of its tokenizer.
        chunk: positions whose distribution over the vocabulary exists at one time.
    """

    def __init__(self, model: Any, codec: ChatCodec, chunk: int = 1024) -> None:
        self.codec, self.chunk = codec, chunk
        self.streamed = StreamedLM(model, vocabulary=len(codec.tokenizer), chunk=chunk)
        self.context = int(model.config.max_position_embeddings)

    @property
    def model(self) -> Any:
        return self.streamed.model

    def post(self, path: str, body: dict[str, Any]) -> Reply:
        """The reply to one request."""
        return self.post_all(path, [body])[0]

    def post_all(self, path: str, bodies: Sequence[dict[str, Any]]) -> list[Reply]:
        """Replies in order; requests of equal sampling are written together."""
        if path != "/chat/completions":
            return [self._scored(body["prompt"], body["prompt_logprobs"]) for body in bodies]
        prompts = [self.codec.prompt(body["messages"]) for body in bodies]
        replies: list[Reply] = [
            Failure("refused", f"the prompt has {len(prompt)} tokens, the context {self.context}") for prompt in prompts
        ]
        groups: dict[tuple[float, int, bool], list[int]] = {}
        for i, (body, prompt) in enumerate(zip(bodies, prompts, strict=True)):
            room = min(int(body["max_tokens"]), self.context - len(prompt))
            if room > 0:
                groups.setdefault((float(body["temperature"]), room, bool(body.get("logprobs"))), []).append(i)
        for (temperature, room, letters), places in groups.items():
            asked, read = [bodies[i] for i in places], [prompts[i] for i in places]
            made = self._letters(asked, read) if letters else self._written(asked, read, Sampling(temperature, room))
            for i, reply in zip(places, made, strict=True):
                replies[i] = reply
        return replies

    def _written(self, bodies: Sequence[dict[str, Any]], prompts: Sequence[list[int]], sampling: Sampling) -> list[Reply]:
        counts = [int(body.get("n", 1)) for body in bodies]
        keys: list[Key] = [
            ("local", body.get("seed", 0), digest(*prompt), i)
            for body, prompt, count in zip(bodies, prompts, counts, strict=True) for i in range(count)
        ]  # fmt: skip
        rows = [prompt for prompt, count in zip(prompts, counts, strict=True) for _ in range(count)]
        together = max(1, min(256, SHARED_TOKENS // sampling.max_tokens))
        generator = HFGenerator(
            self.model, sorted(self.codec.ends), self.codec.pad, rows=together, vocabulary=self.streamed.vocabulary
        )
        written = iter(generator.generate(rows, sampling, keys))
        replies: list[Reply] = []
        for prompt, count in zip(prompts, counts, strict=True):
            made = [next(written) for _ in range(count)]
            choices = [
                {"index": i, "message": {"role": "assistant", "content": self.codec.text(g.tokens)}, "finish_reason": g.finish}
                for i, g in enumerate(made)
            ]
            replies.append({"choices": choices, "usage": _usage(len(prompt), sum(len(g.tokens) for g in made))})
        return replies

    @torch.inference_mode()
    def _letters(self, bodies: Sequence[dict[str, Any]], prompts: Sequence[list[int]]) -> list[Reply]:
        """The likeliest first tokens of each reply; the most likely one is the reply."""
        replies: list[Reply] = []
        for body, prompt in zip(bodies, prompts, strict=True):
            ids_PL = torch.tensor([prompt], device=self.model.device)
            hidden_PLH = self.model.get_decoder()(input_ids=ids_PL, use_cache=False).last_hidden_state
            best = self.streamed.logprobs(hidden_PLH[0, -1:])[0].topk(min(int(body["top_logprobs"]), self.streamed.vocabulary))
            told = [
                {"token": self.codec.tokenizer.decode([token]), "logprob": value}
                for token, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            ]
            choice = {"index": 0, "message": {"role": "assistant", "content": told[0]["token"]}, "finish_reason": "length",
                      "logprobs": {"content": [{**told[0], "top_logprobs": told}]}}  # fmt: skip
            replies.append({"choices": [choice], "usage": _usage(len(prompt), 1)})
        return replies

    @torch.inference_mode()
    def _scored(self, rows: Sequence[Sequence[int]], top: int) -> Reply:
        """The log-prob of each given token but the first and of the likeliest ones in its place, at temperature 1, in the form
        of vLLM's `prompt_logprobs`."""
        if any(len(row) > self.context for row in rows):
            return Failure("refused", f"{max(map(len, rows))} tokens are to be scored, the context has {self.context}")
        choices = []
        for index, row in enumerate(rows):
            ids_L = torch.tensor(list(row), device=self.model.device)
            hidden_CH = self.model.get_decoder()(input_ids=ids_L[None], use_cache=False).last_hidden_state[0, :-1]
            told: list[dict[str, Any] | None] = [None]
            for at in range(0, len(hidden_CH), self.chunk):
                logp_CV, tokens_C = self.streamed.logprobs(hidden_CH[at : at + self.chunk]), ids_L[1:][at : at + self.chunk]
                own = zip(tokens_C.tolist(), gather_logprobs(logp_CV, tokens_C).tolist(), strict=True)
                best = logp_CV.topk(top)
                told += [
                    {str(id_): {"logprob": value} for id_, value in [*zip(ids, values, strict=True), sent]}
                    for ids, values, sent in zip(best.indices.tolist(), best.values.tolist(), own, strict=True)
                ]
            choices.append({"index": index, "text": "", "prompt_logprobs": told})
        return {"choices": choices, "usage": _usage(sum(map(len, rows)), len(rows))}


def _usage(read: int, written: int) -> dict[str, int]:
    return {"prompt_tokens": read, "completion_tokens": written}


class LocalClient(Client):
    """A client of weights in this process: cached and charged like a server's, but asked for all replies at once."""

    def __init__(
        self, endpoint: LocalEndpoint, cache: ReplyCache | None, ledger: Ledger, role: str, model: str, revision: str,
        tariff: Tariff,
    ) -> None:  # fmt: skip
        size = tariff.parameters or float(endpoint.streamed.parameter_count)
        super().__init__(endpoint, cache, ledger, role, model, revision, dataclasses.replace(tariff, parameters=size), 1)
        self._weights = endpoint

    def call(self, path: str, bodies: Sequence[dict[str, Any]], attempt: int = 0) -> list[dict[str, Any] | Failure]:
        """The replies in the order of the requests, charged in that order."""
        full = [{"model": self.model, **body} for body in bodies]
        keys = [key_of(self.id, path, body, attempt) for body in full]
        known = [self._cache.get(key) if self._cache else None for key in keys]
        asked = [i for i, reply in enumerate(known) if reply is None]
        made = dict(zip(asked, self._weights.post_all(path, [full[i] for i in asked]), strict=True))
        for i, reply in made.items():
            if self._cache and not isinstance(reply, Failure):
                self._cache.put(keys[i], reply)
        self.sent += len(asked)
        self.hits += len(keys) - len(asked)
        replies = [made[i] if reply is None else reply for i, reply in enumerate(known)]
        for reply in replies:
            self._charge(reply)
        return replies
