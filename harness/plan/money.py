"""Dollars: a track's own prices where it has them, else those of a dated list; what neither knows stays unknown."""

from __future__ import annotations

from dataclasses import dataclass

from harness.plan.machine import table
from harness.tracks import Served, Track


@dataclass(frozen=True)
class Prices:
    roles: dict[str, tuple[float, float] | None]
    """Dollars for a million tokens in and out, by role; None where nobody knows."""
    gpu_hour: float
    basis: list[str]

    def known(self, role: str) -> bool:
        return self.roles.get(role) is not None

    def of(self, role: str, tokens_in: float, tokens_out: float) -> float:
        """Dollars; 0 where the price is not known (which a plan says)."""
        usd_in, usd_out = self.roles.get(role) or (0.0, 0.0)
        return (usd_in * tokens_in + usd_out * tokens_out) / 1e6


def prices_of(track: Track, gpu: str) -> Prices:
    """Prices of a track's roles and of a GPU's hour."""
    listed, roles, basis = table("prices"), {}, []
    for role, served in track.served:
        roles[role] = _of(served, listed["models"]["usd"])
        if served.usd_in or served.usd_out:
            basis.append(f"{role} {served.model}: {_said(served.usd_in, served.usd_out)}, the track's price")
        elif _free(served) and served.url not in ("pocket", "local"):
            basis.append(f"{role} {served.model} runs on a machine of one's own, whose hours are not in the dollars")
        elif roles[role] is not None and not _free(served):
            usd = roles[role]
            assert usd is not None
            basis.append(f"{role} {served.model}: {_said(*usd)} ({listed['models']['source']})")
    hour = float(listed["gpu_hours"]["usd"].get(gpu, 0.0))
    basis.append(f"a GPU hour at ${hour:g} ({listed['gpu_hours']['source']})")
    return Prices(roles, hour, basis)


def _said(usd_in: float, usd_out: float) -> str:
    return f"${usd_in:g} in and ${usd_out:g} out for a million tokens"


def _free(served: Served) -> bool:
    """Served by oneself: the machine is paid for, not the tokens."""
    return served.url in ("pocket", "local") or any(f"//{host}" in served.url for host in ("127.0.0.1", "localhost", "[::1]"))


def _of(served: Served, listed: dict[str, list[float]]) -> tuple[float, float] | None:
    if served.usd_in or served.usd_out:
        return served.usd_in, served.usd_out
    if _free(served):
        return 0.0, 0.0
    name = served.model.rpartition("/")[2]
    # a dated snapshot has its family's price
    fits = [known for known in listed if name == known or name.startswith(f"{known}-20")]
    return (float(listed[fits[0]][0]), float(listed[fits[0]][1])) if fits else None
