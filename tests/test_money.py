"""Real money: what a request may cost is taken before it is sent, and a ceiling is not passed."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from loopback import Stub, said

from harness.clients.cache import ReplyCache
from harness.clients.metered import Tariff
from harness.connect import Terms, client, connections, on
from harness.errors import ClientError, RunFault, SpecError
from harness.ledger import Budget, Ledger
from harness.money import Paid, Purse, check_prices
from harness.replay import Noted, pack, unpack
from harness.store import mended
from harness.tracks import Served
from harness.types import Failure

BODY = {"model": "m", "messages": [{"role": "user", "content": "x" * 84}], "max_tokens": 50, "n": 2}
MOST = (1.0 * 100 + 10.0 * 100) / 1e6  # 84 bytes and 16 for the message's marks, at 1 and 10 dollars a million


class Server:
    def __init__(self, reply: Any) -> None:
        self.reply, self.asked = reply, 0

    def post(self, path: str, body: dict[str, Any]) -> Any:
        self.asked += 1
        return self.reply


def paid(purse: Purse, reply: Any) -> tuple[Paid, Server]:
    server = Server(reply)
    return Paid(server, "teacher", Tariff(usd_in=1.0, usd_out=10.0), purse), server


@pytest.mark.parametrize(
    ("reply", "cost"),
    [
        ({"usage": {"prompt_tokens": 20, "completion_tokens": 30}}, (20 + 300) / 1e6),
        ({"choices": []}, MOST),
        (Failure("refused", "no"), 0.0),
        (Failure("judge_error", "timed out"), MOST),
    ],
)
def test_a_reply_costs_its_usage_and_an_unknown_one_the_most(tmp_path: Path, reply: Any, cost: float) -> None:
    purse = Purse(tmp_path / "money", 1.0)
    paid(purse, reply)[0].post("/chat/completions", BODY)
    assert purse.spent == pytest.approx(cost, abs=1e-12)
    assert Purse(tmp_path / "money", 1.0).spent == pytest.approx(cost, abs=1e-12)


def test_nothing_is_asked_beyond_the_ceiling_and_a_higher_one_goes_on(tmp_path: Path) -> None:
    usage = {"usage": {"prompt_tokens": 100, "completion_tokens": 100}}
    purse = Purse(tmp_path / "money", 2.5 * MOST)
    endpoint, server = paid(purse, usage)
    endpoint.post("/chat/completions", BODY)
    endpoint.post("/chat/completions", BODY)
    with pytest.raises(RunFault, match="the ceiling of"):
        endpoint.post("/chat/completions", BODY)
    assert server.asked == 2
    paid(Purse(tmp_path / "money", 3.1 * MOST), usage)[0].post("/chat/completions", BODY)
    assert Purse(tmp_path / "money", None).spent == pytest.approx(3 * MOST)


def test_many_threads_do_not_pass_the_ceiling(tmp_path: Path) -> None:
    purse = Purse(tmp_path / "money", 7.5 * MOST)
    endpoint, server = paid(purse, {"usage": {"prompt_tokens": 100, "completion_tokens": 100}})

    def ask(_: int) -> bool:
        with contextlib.suppress(RunFault):
            endpoint.post("/chat/completions", BODY)
            return True
        return False

    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(ask, range(40)))
    assert (sum(done), server.asked) == (7, 7)
    assert purse.spent == pytest.approx(7 * MOST)


def test_a_ceiling_needs_prices_where_servers_are_elsewhere() -> None:
    far = Served(url="https://example.org/v1", model="m")
    with pytest.raises(SpecError, match="has no price") as caught:
        check_prices([("judge", far)], [])
    assert "--price judge=IN,OUT" in caught.value.fix
    check_prices([("judge", Served(url=far.url, model="m", usd_in=0, usd_out=0))], [])
    check_prices([("judge", far)], ["judge"])


@pytest.fixture
def stub() -> Any:
    server = Stub()
    yield server
    server.stop()


def asked(url: str, cache: ReplyCache, terms: Terms) -> list[Any]:
    served, ledger = Served(url=url, model="m", usd_in=1.0, usd_out=1.0), Ledger(Budget({"prompts": 1}))
    with contextlib.ExitStack() as stack:
        stack.enter_context(on(terms))
        made = client("critic", served, ledger, cache, connections(None, 0, [("critic", served)], stack), stack)
        bodies = [{"messages": [{"role": "user", "content": text}], "max_tokens": 4} for text in ("one", "two")]
        return made.call("/chat/completions", bodies)


def test_replies_travel_in_a_pack_and_a_miss_names_the_request(tmp_path: Path, stub: Stub) -> None:
    stub.answer = lambda body: said(body["messages"][0]["content"].upper())
    first = ReplyCache(tmp_path / "first")
    purse = Purse(tmp_path / "money", 1.0)
    replies = asked(stub.url, first, Terms(purse=purse, notes=tmp_path / "notes"))
    assert purse.spent == pytest.approx(2 * 10 / 1e6)
    assert asked(stub.url, first, Terms(purse=purse, notes=tmp_path / "notes")) == replies
    assert purse.spent == pytest.approx(2 * 10 / 1e6), "a reply from the cache costs nothing"
    keys = mended(tmp_path / "notes")
    assert sorted(keys) == first.keys()
    found = {key: first.get(key) for key in keys}
    assert pack(iter((key, reply) for key, reply in sorted(found.items()) if reply), tmp_path / "pack.gz") == 2
    stub.stop()
    second = ReplyCache(tmp_path / "second")
    with pytest.raises(ClientError, match="the cache has no reply of the critic m to 'one'"):
        asked(stub.url, second, Terms(offline=True))
    assert (unpack(tmp_path / "pack.gz", second).new, unpack(tmp_path / "pack.gz", second).known) == (2, 2)
    assert asked(stub.url, second, Terms(offline=True)) == replies
    second._db.execute("UPDATE replies SET reply = '{}'")
    assert unpack(tmp_path / "pack.gz", second).differing == 2


def test_what_is_no_pack_is_refused(tmp_path: Path) -> None:
    cache = ReplyCache(tmp_path)
    with pytest.raises(SpecError, match="no file"):
        unpack(tmp_path / "none.gz", cache)
    (tmp_path / "text.gz").write_text("hello")
    with pytest.raises(SpecError, match="is no pack of replies"):
        unpack(tmp_path / "text.gz", cache)


def test_a_line_that_a_crash_cut_off_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("aa\nbb")
    noted = Noted(ReplyCache(tmp_path), tmp_path / "notes")
    noted.put("cc", {"x": 1})
    assert noted.get("cc") == {"x": 1}
    assert mended(tmp_path / "notes") == ["aa", "cc"]
    (tmp_path / "money").write_text('{"role": "judge", "usd": 2.0}\n{"role": "ju')
    Purse(tmp_path / "money", 10.0).take("judge", 1.5)
    assert Purse(tmp_path / "money", 10.0).spent == 3.5
