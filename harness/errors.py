"""Every error a user can meet: one root, one class per border crossed, one code per cause.

A message says what was got, what was allowed and what to type next. `exit_code` follows the documented table.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable


class HarnessError(Exception):
    """The root. `where` is the flag or file at fault, `fix` the next thing to type."""

    exit_code = 2
    code = "H000"
    spent = "nothing was spent"
    """What it cost to find out, said where `exit_code` is 2."""

    def __init__(self, message: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(message)
        self.message, self.where, self.fix = message, where, fix


class SpecError(HarnessError):
    """A spec that cannot be run: an unknown name or key, a value out of range."""

    code = "H010"


class CapabilityError(HarnessError):
    """A method needs what its track cannot give."""

    code = "H020"


class StoreError(HarnessError):
    """A run folder that cannot be used."""

    code = "H030"


class EnvironmentFault(HarnessError):
    """Something outside the spec is missing: a port, a package, a key, a file."""

    code = "H040"


class ClientError(HarnessError):
    """A teacher, critic or judge could not be reached; the run can be resumed."""

    code = "H050"
    exit_code = 3


class RunFault(HarnessError):
    """A run went wrong under way and was saved; it can be resumed once the cause is gone."""

    code = "H060"
    exit_code = 3


def out_of_memory(error: BaseException) -> RunFault | None:
    """What to say of a GPU whose memory ran out; None of any other error."""
    torch = sys.modules.get("torch")  # without it no GPU was asked for anything
    if torch is None or not isinstance(error, torch.OutOfMemoryError):
        return None
    told = ". ".join(str(error).split(". ")[:3]).rstrip(".")
    smaller = (
        "a smaller training.micro_batch_tokens or generation.gpu_memory, training.activation_checkpointing: true, student.lora, "
        "or training.sharding: full with --processes (each makes a new run); harness plan tells the peak by part"
    )
    return RunFault(told, fix=smaller)


class SuiteError(HarnessError):
    """A suite's assets are missing or wrong, or answers do not fit it."""

    code = "H070"


class ProbeRefused(HarnessError):
    """A critic or judge that does not tell good answers from bad ones well enough."""

    code = "H090"
    spent = "only the calls of the probe were spent"


class Interrupted(HarnessError):
    """The user stopped the run; it was saved."""

    code = "H130"
    exit_code = 130


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at the name that was meant, or the whole list when nothing is near."""
    options = sorted(known)
    close = difflib.get_close_matches(name, options, 1, 0.5)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(options)}"
