"""The pocket server's ASGI application: its models behind the requests and replies of OpenAI's protocol."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.types import Finish

from .critic import Critic, CriticKnobs
from .judge import Judge, JudgeKnobs
from .protocol import UnknownProtocol, chance, count_tokens, cut
from .teacher import BadRequest, NeuralTeacher

TEACHER, CRITIC, JUDGE = "pocket-teacher", "pocket-critic", "pocket-judge"


@dataclass(frozen=True)
class FaultKnobs:
    """Shares of requests that go wrong on purpose; the luck depends on the request and on how often it came."""

    rate_limited: float = 0.0
    """HTTP 429."""
    server_error: float = 0.0
    """HTTP 500."""
    stalled: float = 0.0
    """Answered, but only after `stall_seconds`."""
    stall_seconds: float = 30.0
    retry_after: int = 1
    """Seconds named in the Retry-After header of a 429."""


class _Body(BaseModel):
    """What every request may say; `extra="forbid"`: a setting without effect is refused, never ignored."""

    model_config = ConfigDict(extra="forbid")

    model: str
    seed: int = 0
    top_p: float = Field(1.0, ge=1, le=1)
    stream: Literal[False] = False
    user: str = ""


class ChatBody(_Body):
    messages: list[dict[str, str]] = Field(min_length=1)
    temperature: float = Field(1.0, ge=0, le=2)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    n: int = Field(1, ge=1, le=256)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)
    response_format: dict[str, Any] | None = None

    @property
    def most_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


class CompletionBody(_Body):
    prompt: str | list[int] | list[list[int]]
    temperature: float = Field(1.0, ge=0, le=2)
    max_tokens: int = Field(16, ge=0)
    n: Literal[1] = 1
    echo: bool = False
    prompt_logprobs: int | None = Field(None, ge=0, le=20)


@dataclass(frozen=True)
class _Outcome:
    choices: list[dict[str, Any]]
    prompt_tokens: int
    completion_tokens: int


class _Server:
    """The models and the log of what they were asked; work of the neural teacher waits its turn in one thread."""

    def __init__(self, teacher_folder: Path | None, critic: CriticKnobs, judge: JudgeKnobs) -> None:
        from anyio import CapacityLimiter

        self.teacher = NeuralTeacher(teacher_folder) if teacher_folder else None
        self.critic, self.judge = Critic(critic), Judge(judge)
        self.usage: dict[str, dict[str, int]] = {}
        self._turn = CapacityLimiter(1)

    @property
    def models(self) -> list[str]:
        return [*([TEACHER] if self.teacher else []), CRITIC, JUDGE]

    async def chat(self, body: ChatBody) -> _Outcome:
        if body.model == TEACHER and self.teacher:
            if body.response_format:
                raise BadRequest(f"{TEACHER} takes no response_format")
            if body.logprobs and (body.most_tokens, body.n) != (1, 1):
                raise BadRequest(f"{TEACHER} reports log-probs of one reply of one token: max_tokens 1 and n 1")
            return await self._in_turn(_teacher_chat, self.teacher, body)
        self._must_be(body.model, CRITIC, JUDGE)
        if body.n != 1:
            raise BadRequest(f"{body.model} gives one reply a request, n = {body.n} were asked for")
        logprobs = None
        if body.model == CRITIC:
            text = self.critic.reply(body.messages, body.response_format, body.seed)
        else:
            reply = self.judge.reply(body.messages, body.seed)
            text = reply.text
            if body.logprobs:
                told = [{"token": name, "logprob": logp, "bytes": list(name.encode())} for name, logp in reply.logprobs.items()]
                logprobs = {"content": [{**told[0], "top_logprobs": told[: body.top_logprobs]}], "refusal": None}
        said = text if body.most_tokens is None else cut(text, body.most_tokens)
        choice = _choice(0, said, "stop" if said == text else "length", logprobs)
        return _Outcome([choice], sum(count_tokens(message["content"]) for message in body.messages), count_tokens(said))

    async def complete(self, body: CompletionBody) -> _Outcome:
        self._must_be(body.model, *([TEACHER] if self.teacher else []))
        assert self.teacher
        return await self._in_turn(_teacher_completion, self.teacher, body)

    def record(self, model: str, outcome: _Outcome) -> None:
        row = self.usage.setdefault(model, {"calls": 0, "prompt_tokens": 0, "completion_tokens": 0})
        row["calls"] += 1
        row["prompt_tokens"] += outcome.prompt_tokens
        row["completion_tokens"] += outcome.completion_tokens

    def _must_be(self, model: str, *able: str) -> None:
        if model not in able:
            raise BadRequest(f"no model {model!r} here; this endpoint has: {', '.join(able) or 'none'}")

    async def _in_turn(self, work: Callable[..., _Outcome], *args: Any) -> _Outcome:
        from anyio.to_thread import run_sync

        return await run_sync(work, *args, limiter=self._turn)


def _choice(index: int, text: str, finish: Finish, logprobs: dict[str, Any] | None = None) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"index": index, "message": message, "finish_reason": finish, "logprobs": logprobs}


def _teacher_chat(teacher: NeuralTeacher, body: ChatBody) -> _Outcome:
    prompt = teacher.chat_tokens(body.messages)
    (written,) = teacher.write([prompt], body.n, body.temperature, body.most_tokens, body.seed)
    logprobs = {"content": [teacher.first_token(prompt, written[0], body.top_logprobs)]} if body.logprobs else None
    choices = [_choice(i, one.text, one.finish, logprobs) for i, one in enumerate(written)]
    return _Outcome(choices, len(prompt), sum(len(one.tokens) for one in written))


def _rows(prompt: list[int] | list[list[int]]) -> list[list[int]]:
    rows = [row for row in prompt if isinstance(row, list)]
    return rows or [[token for token in prompt if isinstance(token, int)]]


def _teacher_completion(teacher: NeuralTeacher, body: CompletionBody) -> _Outcome:
    rows = _rows(teacher.tokens(body.prompt) if isinstance(body.prompt, str) else body.prompt)
    written = [row[0] for row in teacher.write(rows, 1, body.temperature, body.max_tokens, body.seed)]
    choices: list[dict[str, Any]] = [
        {
            "index": index,
            "text": teacher.echo(row, one) if body.echo else one.text,
            "finish_reason": one.finish,
            "logprobs": None,
        }
        for index, (row, one) in enumerate(zip(rows, written, strict=True))
    ]
    if body.prompt_logprobs is not None:
        for choice, scores in zip(choices, teacher.score(rows, body.prompt_logprobs), strict=True):
            choice["prompt_logprobs"] = scores
    return _Outcome(choices, sum(map(len, rows)), sum(len(one.tokens) for one in written))


def create_app(teacher_folder: Path | None, critic: CriticKnobs, judge: JudgeKnobs, token: str, faults: FaultKnobs) -> Any:
    """The ASGI application.

    Args:
        teacher_folder: the neural teacher's model folder; without one there is no `pocket-teacher`.
        token: what every request but /health must bear.
    """
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    server, attempts = _Server(teacher_folder, critic, judge), Counter[bytes]()

    def refused(status: int, kind: str, message: str, headers: dict[str, str] | None = None) -> Response:
        error = {"message": message, "type": kind, "param": None, "code": status}
        return JSONResponse({"error": error}, status_code=status, headers=headers)

    def guarded(answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            given = request.headers.get("authorization", "").encode()
            if not hmac.compare_digest(given, f"Bearer {token}".encode()):
                return refused(401, "authentication_error", "the bearer token is missing or wrong; send this server's own")
            return await answer(request)

        return endpoint

    async def mishap(content: bytes) -> Response | None:
        name = hashlib.sha256(content).digest()
        attempts[name] += 1
        luck = chance("mishap", name.hex(), attempts[name])
        if luck < faults.rate_limited:
            return refused(429, "rate_limit_error", "rate limit reached; try again", {"retry-after": str(faults.retry_after)})
        if luck < faults.rate_limited + faults.server_error:
            return refused(500, "server_error", "the server failed; try again")
        if luck < faults.rate_limited + faults.server_error + faults.stalled:
            await asyncio.sleep(faults.stall_seconds)
        return None

    async def chat(request: Request) -> Response:
        return await generated(request, ChatBody, server.chat, "chat.completion")

    async def complete(request: Request) -> Response:
        return await generated(request, CompletionBody, server.complete, "text_completion")

    async def generated(request: Request, form: type[_Body], answer: Callable[[Any], Awaitable[_Outcome]], kind: str) -> Response:
        content = await request.body()
        if wrong := await mishap(content):
            return wrong
        try:
            body = form.model_validate_json(content)
            outcome = await answer(body)
        except (ValidationError, BadRequest, UnknownProtocol) as error:
            return refused(400, "invalid_request_error", str(error))
        server.record(body.model, outcome)
        usage = {"prompt_tokens": outcome.prompt_tokens, "completion_tokens": outcome.completion_tokens}
        return JSONResponse(
            {
                "id": f"pocket-{hashlib.sha256(content).hexdigest()[:16]}",
                "object": kind,
                "created": int(time.time()),
                "model": body.model,
                "choices": outcome.choices,
                "usage": {**usage, "total_tokens": sum(usage.values())},
            }
        )

    async def models(request: Request) -> Response:
        listed = [{"id": name, "object": "model", "created": 0, "owned_by": "pocket"} for name in server.models]
        return JSONResponse({"object": "list", "data": listed})

    async def usage(request: Request) -> Response:
        return JSONResponse(server.usage)

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    return Starlette(
        routes=[
            Route("/v1/chat/completions", guarded(chat), methods=["POST"]),
            Route("/v1/completions", guarded(complete), methods=["POST"]),
            Route("/v1/models", guarded(models)),
            Route("/usage", guarded(usage)),
            Route("/health", health),
        ]
    )
