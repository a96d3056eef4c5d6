"""From a track's roles to live clients: addresses, keys, and the embedded server where a role is its."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from harness import environment
from harness.clients.cache import ReplyCache
from harness.clients.metered import Client, Posts, Tariff
from harness.clients.openai import Endpoint
from harness.clients.pace import shared
from harness.errors import ClientError, EnvironmentFault, SpecError
from harness.ledger import Ledger
from harness.money import Paid, Purse
from harness.replay import Noted
from harness.tracks import Served, Track

UNSERVED = ("pocket", "local")
"""Urls that stand for no server of the user's: the embedded one, and weights in this process."""


@dataclass(frozen=True)
class Terms:
    """On what terms servers are asked."""

    offline: bool = False
    """Every reply comes from the cache; one that is not there is an error."""
    purse: Purse | None = None
    """Where requests that go out are paid from."""
    notes: Path | None = None
    """A file that notes the cache's keys of all replies that were used."""


_TERMS: ContextVar[Terms] = ContextVar("terms")


@contextlib.contextmanager
def on(terms: Terms) -> Iterator[None]:
    """Clients that are made inside ask on these terms: whoever makes them, a run or the probe of its critic."""
    token = _TERMS.set(terms)
    try:
        yield
    finally:
        _TERMS.reset(token)


class Absent:
    """Stands for a server that may not be asked: every request is an error that names it."""

    def __init__(self, role: str, url: str) -> None:
        self._role, self._url = role, url

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Raises ClientError with the beginning of what would have been asked."""
        asked = body["messages"][-1]["content"] if "messages" in body else f"{len(body['prompt'])} rows of token ids"
        settings = ", ".join(f"{key} {body[key]}" for key in ("temperature", "max_tokens", "n", "seed") if key in body)
        raise ClientError(
            f"the cache has no reply of the {self._role} {body['model']} to {' '.join(str(asked).split())[:160]!r} ({settings})",
            where=f"{self._url}{path}",
            fix="leave --offline or --replay out to ask the server; replies are kept under its exact URL and model",
        )  # fmt: skip


def served_at(text: str, key: str = "OPENAI_API_KEY") -> Served:
    """A served model from URL/MODEL: all up to and including "/v1" is the address, the rest is the model's name.

    Args:
        key: the environment variable that holds the API key.

    Raises:
        SpecError: the text is not of that form.
    """
    address, version, model = text.partition("/v1/")
    if not version or not model or urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).hostname:
        raise SpecError(
            f"expected URL/MODEL with /v1/ between them, got {text!r}", where=text,
            fix="for example: http://127.0.0.1:8000/v1/Qwen/Qwen3-8B",
        )  # fmt: skip
    return Served(url=f"{address}/v1", model=model, key=key)


def connections(
    track: Track | None, seed: int, served: Sequence[tuple[str, Served]], stack: contextlib.ExitStack
) -> Callable[[str, Served], tuple[str, str, str]]:
    """Gives address, key and revision of each role's server; the embedded one is started here, if any role is its.

    A server on this machine may be asked without a key.

    Raises:
        EnvironmentFault: a key is missing.
    """
    server = revision = None
    offline = _TERMS.get(Terms()).offline
    for role, model in served:
        if not (offline or model.url in UNSERVED or here(model.url)) and environment.secret(model.key) is None:
            raise EnvironmentFault(f"no API key for the {role} at {model.url}", where=model.key, fix=f"export {model.key}=...")
    if any(model.url == "pocket" for _, model in served):
        from harness.pocket import world

        if track is None:
            raise SpecError("the embedded server belongs to a track", where="pocket", fix="--track pocket")
        config = world.server_config(track, seed)
        server, revision = stack.enter_context(world.start_server(config)), world.server_revision(config)

    def connect(role: str, model: Served) -> tuple[str, str, str]:
        if model.url == "pocket":
            assert server is not None
            assert revision is not None
            return server.url, server.token, revision
        return model.url, environment.secret(model.key) or "no key", model.revision or _host(model.url)

    return connect


def _host(url: str) -> str:
    """Stands for the revision of a model that nobody pinned: who serves it."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


def here(url: str) -> bool:
    """Whether a server is on this machine."""
    return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")


def noted(cache: ReplyCache | None) -> ReplyCache | None:
    """The cache, with a note of what is used where the context keeps one."""
    notes = _TERMS.get(Terms()).notes
    return cache if cache is None or notes is None else Noted(cache, notes)


def client(
    role: str, served: Served, ledger: Ledger, cache: ReplyCache | None,
    connect: Callable[[str, Served], tuple[str, str, str]], stack: contextlib.ExitStack,
) -> Client:  # fmt: skip
    """A live client of one role, until the stack ends, on the terms of the context."""
    url, key, revision = connect(role, served)
    terms, tariff = _TERMS.get(Terms()), Tariff(served.parameters, served.usd_in, served.usd_out)
    asked: Posts
    if terms.offline and served.url not in UNSERVED:
        asked = Absent(role, served.url)
    else:
        pace = shared(url, key, served.rpm, served.tpm)
        asked = endpoint = Endpoint(url, key, served.timeout_s, served.retries, pace, served.refuses)
        stack.callback(endpoint.close)
        if terms.purse is not None and served.url not in UNSERVED:
            asked = Paid(endpoint, role, tariff, terms.purse)
    client = Client(asked, noted(cache), ledger, role, served.model, revision, tariff, served.concurrency)
    stack.callback(client.close)
    return client
