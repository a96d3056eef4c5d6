"""Real money: what a run may spend on servers, kept before it is spent. Replies from the cache cost nothing here."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from harness.clients.metered import Posts, Tariff
from harness.errors import RunFault, SpecError
from harness.store import mended
from harness.tracks import Served
from harness.types import Failure

FILE = ".money.jsonl"
"""In a run's folder: a line for each promise and each correction of it; their sum was paid."""


class Purse:
    """A ceiling on dollars. Each request is paid at the most that it may cost and corrected by what its reply cost, so the
    ceiling is not passed, and a process that is killed has counted what was under way.

    Args:
        path: a line file of all payments, read at the start; made when the first is written.
        ceiling: dollars; None only counts.
    """

    def __init__(self, path: Path, ceiling: float | None) -> None:
        self._path, self.ceiling, self._lock = path, ceiling, threading.Lock()
        self.spent = float(sum(json.loads(line)["usd"] for line in mended(path)))

    def take(self, role: str, usd: float) -> None:
        """Pays before a request.

        Raises:
            RunFault: what is left does not cover it.
        """
        with self._lock:
            if self.ceiling is not None and self.spent + usd > self.ceiling:
                raise RunFault(
                    f"the ceiling of ${self.ceiling:,.2f} is reached: ${self.spent:,.4f} are spent, and the next request to the "
                    f"{role} may cost ${usd:,.4f}", where=f"--max-usd {self.ceiling:g}",
                    fix="a higher --max-usd; what was paid for is cached and not paid again",
                )  # fmt: skip
            self._write(role, usd)

    def give_back(self, role: str, usd: float) -> None:
        """Corrects a payment that was too high."""
        if usd:
            with self._lock:
                self._write(role, -usd)

    def _write(self, role: str, usd: float) -> None:
        self.spent += usd
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"role": role, "usd": usd}) + "\n")


class Paid:
    """A server whose requests are paid from a purse."""

    def __init__(self, endpoint: Posts, role: str, tariff: Tariff, purse: Purse) -> None:
        self._endpoint, self._role, self._tariff, self._purse = endpoint, role, tariff, purse

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any] | Failure:
        """The server's reply.

        Raises:
            RunFault: the purse does not cover it; nothing was asked.
        """
        most = self._most(body)
        self._purse.take(self._role, most)
        reply = self._endpoint.post(path, body)
        self._purse.give_back(self._role, most - self._cost(reply, most))
        return reply

    def _most(self, body: dict[str, Any]) -> float:
        """The most that a request may cost: a token a byte of what is read, and each answer as long as it may be."""
        if "messages" in body:
            read = sum(len(message["content"].encode()) + 16 for message in body["messages"])
        else:
            read = sum(map(len, body["prompt"]))
        written = body.get("max_tokens", 0) * body.get("n", 1)
        return self._usd(read, written)

    def _cost(self, reply: dict[str, Any] | Failure, most: float) -> float:
        """What a reply cost; a request that stayed unanswered may have cost the most, one that was refused nothing."""
        if isinstance(reply, Failure):
            return 0.0 if reply.status == "refused" else most
        usage = reply.get("usage") or {}
        if "prompt_tokens" not in usage:
            return most
        return self._usd(usage["prompt_tokens"], usage.get("completion_tokens", 0))

    def _usd(self, read: float, written: float) -> float:
        return (self._tariff.usd_in * read + self._tariff.usd_out * written) / 1e6


def priced(served: Served) -> bool:
    """Whether its calls cost money, as far as the track says."""
    return served.url not in ("pocket", "local") and bool(served.usd_in or served.usd_out)


def check_prices(served: list[tuple[str, Served]], here: list[str]) -> None:
    """A ceiling on money can be kept only where all prices are known.

    Args:
        here: roles that a server on this machine has, which costs nothing unless the track says so.

    Raises:
        SpecError: a server elsewhere has no price; 0 must be said.
    """
    for role, model in served:
        known = {"usd_in", "usd_out"} <= model.model_fields_set
        if role not in here and model.url not in ("pocket", "local") and not known:
            raise SpecError(
                f"the {role} {model.model} has no price, so a ceiling on money could not be kept", where="--max-usd",
                fix=f"--price {role}=IN,OUT (dollars for a million tokens; 0,0 if it costs nothing)",
            )  # fmt: skip
