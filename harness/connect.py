"""From a track's roles to live clients: addresses, keys, and the embedded server where a role is its."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from harness import environment
from harness.clients.cache import ReplyCache
from harness.clients.metered import Client, Tariff
from harness.clients.openai import Endpoint
from harness.errors import EnvironmentFault
from harness.ledger import Ledger
from harness.spec import RunSpec
from harness.tracks import Served


def connections(
    spec: RunSpec, served: Sequence[tuple[str, Served]], stack: contextlib.ExitStack
) -> Callable[[str, Served], tuple[str, str, str]]:
    """Gives address, key and revision of each role's server; the embedded one is started here, if any role is its.

    Raises:
        EnvironmentFault: a key is missing.
    """
    server = revision = None
    for role, model in served:
        if model.url != "pocket" and environment.secret(model.key) is None:
            raise EnvironmentFault(f"no API key for the {role} at {model.url}", where=model.key, fix=f"export {model.key}=...")
    if any(model.url == "pocket" for _, model in served):
        from harness.pocket import world

        config = world.server_config(spec.track, spec.seed)
        server, revision = stack.enter_context(world.start_server(config)), world.server_revision(config)

    def connect(role: str, model: Served) -> tuple[str, str, str]:
        if model.url == "pocket":
            assert server is not None
            assert revision is not None
            return server.url, server.token, revision
        return model.url, environment.secret(model.key) or "", model.revision or "unpinned"

    return connect


def client(
    role: str, served: Served, ledger: Ledger, cache: ReplyCache,
    connect: Callable[[str, Served], tuple[str, str, str]], stack: contextlib.ExitStack,
) -> Client:  # fmt: skip
    url, key, revision = connect(role, served)
    endpoint = Endpoint(url, key, served.timeout_s, served.retries)
    stack.callback(endpoint.close)
    tariff = Tariff(served.parameters, served.usd_in, served.usd_out)
    client = Client(endpoint, cache, ledger, role, served.model, revision, tariff, served.concurrency)
    stack.callback(client.close)
    return client
