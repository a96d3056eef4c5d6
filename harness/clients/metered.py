"""The client that everybody uses: cached, concurrent, and charged to the ledger by what the server says it used."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from harness.clients.cache import ReplyCache, key_of
from harness.ledger import Ledger
from harness.types import Failure


class Posts(Protocol):
    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any] | Failure: ...


@dataclass(frozen=True)
class Tariff:
    """What a served model costs: parameters for FLOPs, dollars for a million tokens in and out."""

    parameters: float = 0.0
    usd_in: float = 0.0
    usd_out: float = 0.0


class Client:
    """Requests to one model in one role ("teacher", "critic" or "judge").

    A cached reply is charged like a call, so that ledgers do not depend on what somebody asked before; how many calls
    really went out is kept beside it, outside every comparison.
    """

    def __init__(
        self, endpoint: Posts, cache: ReplyCache | None, ledger: Ledger, role: str, model: str, revision: str,
        tariff: Tariff, concurrency: int = 8,
    ) -> None:  # fmt: skip
        self._endpoint, self._cache, self._ledger, self._tariff = endpoint, cache, ledger, tariff
        self.role, self.model, self.revision = role, model, revision
        self.id = f"{model}@{revision}"
        self.hits = self.sent = 0
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix=role)

    def call(self, path: str, bodies: Sequence[dict[str, Any]], attempt: int = 0) -> list[dict[str, Any] | Failure]:
        """The replies in the order of the requests; all are charged, in that order, once all are there."""
        full = [{"model": self.model, **body} for body in bodies]
        replies = list(self._pool.map(lambda body: self._one(path, body, attempt), full))
        for reply, hit in replies:
            self.hits += hit
            self.sent += not hit
            self._charge(reply)
        return [reply for reply, _ in replies]

    def _one(self, path: str, body: dict[str, Any], attempt: int) -> tuple[dict[str, Any] | Failure, bool]:
        key = key_of(self.id, path, body, attempt)
        known = self._cache.get(key) if self._cache else None
        if known is not None:
            return known, True
        reply = self._endpoint.post(path, body)
        if self._cache and not isinstance(reply, Failure):
            self._cache.put(key, reply)
        return reply, False

    def _charge(self, reply: dict[str, Any] | Failure) -> None:
        usage = {} if isinstance(reply, Failure) else reply.get("usage") or {}
        tokens_in, tokens_out = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
        self._ledger.charge(f"{self.role}_calls", 1)
        self._ledger.charge(f"{self.role}_tokens_in", tokens_in)
        self._ledger.charge(f"{self.role}_tokens_out", tokens_out)
        self._ledger.charge("flops", 2 * self._tariff.parameters * (tokens_in + tokens_out))
        self._ledger.charge("usd", (self._tariff.usd_in * tokens_in + self._tariff.usd_out * tokens_out) / 1e6)

    def charge_scored(self, tokens: int) -> None:
        self._ledger.charge(f"{self.role}_scored_tokens", tokens)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
