"""The one place that talks to OpenAI-compatible servers, through the `openai` package."""

from __future__ import annotations

import json
from typing import Any

from harness.clients.pace import Pace
from harness.errors import ClientError
from harness.types import Failure

CHARACTERS_PER_TOKEN = 4
"""For what a request is expected to use, until the server has said what it used."""
SILENCE_S = 60.0
"""The longest silence that a Retry-After gets."""
SPARED = {"max_tokens": "max_completion_tokens", "seed": None, "response_format": None}
"""Fields that a model may refuse without changing what is asked, and the other name of one of them. A reply must parse with or
without a format, and a seed only makes a server's replies repeat."""


class Endpoint:
    """An OpenAI-compatible server. Transport faults are retried by the package, which honours Retry-After.

    Servers differ in the fields that they take. A refused one that can be spared is left out (or given its other name) and,
    if that was it, is not sent to this model again. A temperature is not spared: doing without
    it changes what is sampled, so the track has to say so (`refuses`).

    Args:
        url: base address, ending in /v1.
        key: API key; never stored or printed.
        timeout_s: seconds for one attempt.
        retries: further attempts after a timeout, 408, 409, 429 or 5xx.
        pace: shared by all who ask this server under this key.
        refuses: fields that are never sent.
    """

    def __init__(
        self, url: str, key: str, timeout_s: float = 120.0, retries: int = 4, pace: Pace | None = None,
        refuses: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        import openai

        self.url, self.pace = url, pace or Pace()
        self.spared: set[tuple[str, str]] = {("", field) for field in refuses}
        """Models and the fields that they refused; of the model "" those that none is sent."""
        self._errors = openai
        web = openai.DefaultHttpxClient(
            timeout=timeout_s, event_hooks={"request": [lambda _: self.pace.attempt()], "response": [self._listen]}
        )
        self._client = openai.OpenAI(base_url=url, api_key=key, timeout=timeout_s, max_retries=retries, http_client=web)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any] | Failure:
        """The server's JSON reply; a `Failure` where this one request stayed unanswered.

        Raises:
            ClientError: nothing can be asked of this server at all (not reachable, key refused, no such model, no choice of
                temperature).
        """
        model, tried = str(body.get("model")), set[str]()
        while True:
            known = {field for whose, field in self.spared if whose in ("", model)}
            sent = {field: value for field, value in body.items() if field not in known | tried}
            sent |= {str(SPARED[f]): body[f] for f in (known | tried) & body.keys() if SPARED.get(f)}
            reply = self._attempt(path, sent)
            if isinstance(reply, _Refused) and reply.field and reply.field not in tried:
                tried.add(reply.field)
                continue
            if isinstance(reply, _Refused):
                return Failure("refused", reply.detail)
            self.spared |= {(model, field) for field in tried}
            return reply

    def _attempt(self, path: str, body: dict[str, Any]) -> dict[str, Any] | Failure | _Refused:
        errors = self._errors
        expected = len(json.dumps(body)) // CHARACTERS_PER_TOKEN + int(body.get("max_tokens", 0)) * int(body.get("n", 1))
        self.pace.reserve(expected)
        used = 0
        try:
            reply: Any = self._client.post(path, body=body, cast_to=dict[str, Any])
            used = _used(reply, expected)
        except (errors.AuthenticationError, errors.PermissionDeniedError) as error:
            raise ClientError(f"{self.url} refused the key: {_said(error)}", fix="set the key and repeat the command") from error
        except errors.NotFoundError as error:
            raise ClientError(f"{self.url}{path} knows no model {body.get('model')!r}: {_said(error)}") from error
        except (errors.BadRequestError, errors.UnprocessableEntityError) as error:
            if error.param == "temperature":
                raise ClientError(
                    f"{body.get('model')!r} at {self.url} does not take temperature {body['temperature']}: {_said(error)}",
                    fix="if replies at its own temperature will do, say so in the track: refuses: [temperature]",
                ) from error
            return _Refused(_said(error), _blamed(error.param, body))
        except errors.APITimeoutError as error:
            return Failure("judge_error", f"timed out: {error}")
        except errors.APIConnectionError as error:
            raise ClientError(
                f"cannot reach {self.url}: {error.__cause__ or error}",
                fix="start the server, then repeat the same command to go on",
            ) from error
        except errors.APIStatusError as error:
            return Failure("judge_error", f"HTTP {error.status_code}: {_said(error)}")
        except (errors.APIError, ValueError) as error:  # a body that is no JSON
            return Failure("judge_error", f"unreadable reply: {error}")
        finally:
            self.pace.settle(expected, used)
        # the package hands on whatever JSON came, and the bare text where the server did not call it JSON
        return reply if isinstance(reply, dict) else Failure("judge_error", f"unreadable reply: {str(reply)[:200]!r}")

    def _listen(self, response: Any) -> None:
        """A server that is busy for one is busy for all."""
        if response.status_code == 429:
            try:
                seconds = float(response.headers.get("retry-after", 0))
            except ValueError:  # a date: left to the package
                return
            self.pace.hush(min(max(seconds, 0.0), SILENCE_S))

    def close(self) -> None:
        self._client.close()


class _Refused:
    """A request that the server calls wrong, and which field of it may be to blame."""

    def __init__(self, detail: str, field: str | None) -> None:
        self.detail, self.field = detail, field


def _blamed(named: str | None, body: dict[str, Any]) -> str | None:
    """The field to do without: the one that the server names or, where it names none, the one that few servers know."""
    field = (named or "response_format").partition(".")[0]
    return field if field in SPARED and field in body else None


def _used(reply: Any, expected: int) -> int:
    usage = reply.get("usage") if isinstance(reply, dict) else None
    return int(usage.get("prompt_tokens", 0) + usage.get("completion_tokens", 0)) if isinstance(usage, dict) else expected


def _said(error: Exception) -> str:
    return str(error).replace("\n", " ")[:300]
