"""From a track's roles to live clients: addresses, keys, and the embedded server where a role is its."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from harness import environment
from harness.clients.cache import ReplyCache
from harness.clients.metered import Client, Tariff
from harness.clients.openai import Endpoint
from harness.errors import EnvironmentFault, SpecError
from harness.ledger import Ledger
from harness.tracks import Served, Track


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
    for role, model in served:
        if model.url != "pocket" and environment.secret(model.key) is None and not _here(model.url):
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


def _here(url: str) -> bool:
    return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")


def client(
    role: str, served: Served, ledger: Ledger, cache: ReplyCache | None,
    connect: Callable[[str, Served], tuple[str, str, str]], stack: contextlib.ExitStack,
) -> Client:  # fmt: skip
    url, key, revision = connect(role, served)
    endpoint = Endpoint(url, key, served.timeout_s, served.retries)
    stack.callback(endpoint.close)
    tariff = Tariff(served.parameters, served.usd_in, served.usd_out)
    client = Client(endpoint, cache, ledger, role, served.model, revision, tariff, served.concurrency)
    stack.callback(client.close)
    return client
