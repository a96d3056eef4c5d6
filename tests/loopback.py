"""A real HTTP server on loopback that speaks OpenAI's protocol as a test tells it to, faults included."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


@dataclass
class Reply:
    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    kind: str = "application/json"

    @property
    def content(self) -> str:
        return self.body if isinstance(self.body, str) else json.dumps(self.body)


def said(*texts: str, tokens_in: int = 7, tokens_out: int = 3) -> Reply:
    choices = [{"index": i, "message": {"role": "assistant", "content": text}} for i, text in enumerate(texts)]
    return Reply({"choices": choices, "usage": {"prompt_tokens": tokens_in, "completion_tokens": tokens_out}})


def fault(status: int, message: str = "no", **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply({"error": {"message": message}}, status, {"retry-after-ms": "1", **named})


class Stub:
    """Answers by `answer(body)`, and remembers what it was asked and when."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.paths: list[str] = []
        self.keys: list[str | None] = []
        self.open = self.most_open = 0
        self.answer: Callable[[dict[str, Any]], Reply] = lambda body: said("hello")
        # asyncio turns Nagle's delays off only where the protocol is named
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        app = Starlette(routes=[Route("/v1/{rest:path}", self._serve, methods=["POST"])])
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1))
        self._thread = threading.Thread(target=self._server.run, args=([listener],), daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)

    async def _serve(self, request: Request) -> Response:
        self.times.append(time.monotonic())
        self.paths.append(request.url.path)
        self.keys.append(request.headers.get("authorization"))
        body = await request.json()
        self.seen.append(body)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        reply = self.answer(body)
        await asyncio.sleep(reply.delay)
        self.open -= 1
        return Response(reply.content, reply.status, reply.headers, media_type=reply.kind)

    def script(self, *replies: Reply) -> None:
        """These in turn, the last one again and again."""
        left = list(replies)
        self.answer = lambda body: left.pop(0) if len(left) > 1 else left[0]

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(5)
