"""The one place that talks to OpenAI-compatible servers, through the `openai` package."""

from __future__ import annotations

from typing import Any

from harness.errors import ClientError
from harness.types import Failure


class Endpoint:
    """An OpenAI-compatible server. Transport faults are retried by the package, which honours Retry-After.

    Args:
        url: base address, ending in /v1.
        key: API key; never stored or printed.
        timeout_s: seconds for one attempt.
        retries: further attempts after a timeout, 408, 409, 429 or 5xx.
    """

    def __init__(self, url: str, key: str, timeout_s: float = 120.0, retries: int = 4) -> None:
        import openai

        self.url = url
        self._errors = openai
        self._client = openai.OpenAI(base_url=url, api_key=key, timeout=timeout_s, max_retries=retries)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any] | Failure:
        """The server's JSON reply; a `Failure` where this one request stayed unanswered.

        Raises:
            ClientError: nothing can be asked of this server at all (not reachable, key refused, no such model).
        """
        errors = self._errors
        try:
            reply: Any = self._client.post(path, body=body, cast_to=dict[str, Any])
        except (errors.AuthenticationError, errors.PermissionDeniedError) as error:
            raise ClientError(f"{self.url} refused the key: {_said(error)}", fix="set the key and repeat the command") from error
        except errors.NotFoundError as error:
            raise ClientError(f"{self.url}{path} knows no model {body.get('model')!r}: {_said(error)}") from error
        except (errors.BadRequestError, errors.UnprocessableEntityError) as error:
            return Failure("refused", _said(error))
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
        # the package hands on whatever JSON came, and the bare text where the server did not call it JSON
        return reply if isinstance(reply, dict) else Failure("judge_error", f"unreadable reply: {str(reply)[:200]!r}")

    def close(self) -> None:
        self._client.close()


def _said(error: Exception) -> str:
    return str(error).replace("\n", " ")[:300]
