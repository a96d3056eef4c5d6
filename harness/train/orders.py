"""The first process runs the whole story; the others do with their parts of the models what it does with its own."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from typing import Any

from harness.errors import RunFault

from .distributed import World

VERBS: Mapping[str, Mapping[str, bool]] = {
    "trainer": {
        "step": True, "drift": True, "freeze_reference": True, "state_dict": True,
        "load_state_dict": False, "load_policy": False, "save": False,
    },
    "generator": {"generate": True, "likelihoods": True, "sync": True, "sleep": True},
    "reference": {"next_logprobs": True},
}  # fmt: skip
"""What all processes must do together, by the thing that does it; and whether the others are told the arguments, or given
None in their place, since those are large or only concern the first process."""


class Leader:
    """Makes the verbs of the first process's things orders to all: from now on a call is told to the others, then done.

    What an order calls in its course is part of it and told to nobody.
    """

    def __init__(self, world: World, things: Mapping[str, Any]) -> None:
        self._world, self._under_way = world, False
        for name, thing in things.items():
            for verb, told in VERBS[name].items():
                self._make_order(name, thing, verb, told)

    def _make_order(self, name: str, thing: Any, verb: str, told: bool) -> None:
        call = getattr(thing, verb)

        @functools.wraps(call)
        def ordered(*args: Any, **kwargs: Any) -> Any:
            if self._under_way:
                return call(*args, **kwargs)
            self._under_way = True
            self._world.tell((name, verb, args if told else (None,) * len(args), kwargs if told else dict.fromkeys(kwargs)))
            try:
                result = call(*args, **kwargs)
            except RunFault:  # raised in all processes alike: nobody waits for another
                self._under_way = False
                raise
            self._under_way = False
            return result

        setattr(thing, verb, ordered)

    def dismiss(self) -> bool:
        """Lets the others go, unless an order broke off and they still wait in its midst; whether it could."""
        if not self._under_way:
            self._world.tell(None)
        return not self._under_way


def obey(world: World, things: Mapping[str, Any]) -> None:
    """Carries out orders until the first process lets this one go."""
    while (order := world.tell(None)) is not None:
        name, verb, args, kwargs = order
        with contextlib.suppress(RunFault):  # the first process raises the same, and says it
            getattr(things[name], verb)(*args, **kwargs)
