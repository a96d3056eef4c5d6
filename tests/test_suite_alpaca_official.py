"""The suite `alpaca` on AlpacaEval 2's own items: their check, length control, files of outputs, and the package beside us.

The 805 items here are made up; their digests stand in for the official ones.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import math
import os
import random
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loopback import Reply, Stub

from harness.assets import content_hash
from harness.clients.metered import Client, Tariff
from harness.clients.openai import Endpoint
from harness.clients.roles import ServedJudge
from harness.errors import SuiteError
from harness.ledger import Budget, Ledger
from harness.suite import ChatReply, ChatRequest
from harness.types import Answer, Failure
from suites import _alpaca_files as files
from suites import _alpaca_lc as lc
from suites.alpaca import Alpaca, Config

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated", category=UserWarning)
    from alpaca_eval.metrics import glm_winrate

N = 805
NAME = "alpaca_eval_gpt4_baseline.json"
Rows = list[dict[str, str]]


def made_up() -> Rows:
    rng = random.Random(3)
    return [
        {
            "instruction": f"made-up question {n}", "output": "reference " + "r" * rng.randrange(400), "generator": "baseline",
            "dataset": "made up",
        }
        for n in range(N)
    ]  # fmt: skip


def gamed(folder: Path) -> Path:
    rng = random.Random(4)
    lines = ["preference,index,std_delta_len,instruction_difficulty,not_gamed_baseline,model"]
    difficulty = [rng.gauss(0, 1) for _ in range(N)]
    for model, length, liked in (("concise", 1.5, 0.15), ("verbose", -1.5, 0.6)):
        lines += [
            f"{min(max(rng.gauss(liked, 0.2), 0), 1)},{i},{rng.gauss(length, 0.5)},{difficulty[i]},False,{model}"
            for i in range(N)
        ]
    path = folder / "df_gamed.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def rows() -> Rows:
    return made_up()


@pytest.fixture
def assets(rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "assets"
    folder.mkdir()
    (folder / NAME).write_text(json.dumps(rows))
    gamed(folder)
    facts = [[row["instruction"], len(row["output"])] for row in rows]
    (tmp_path / "official.txt").write_text("\n".join(content_hash(fact) for fact in facts))
    monkeypatch.setattr(files, "OFFICIAL_HASH", content_hash(facts))
    monkeypatch.setattr(files, "_OFFICIAL_ROWS", tmp_path / "official.txt")
    monkeypatch.setenv("HARNESS_ASSETS_DIR", str(folder))
    return folder


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    def absent(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", absent)


def preference(prompt: str) -> float:
    """P(m) of a made-up judge: a liking for length, and noise drawn from the prompt."""
    first, second = re.findall(r'"output": """(.*?)"""', prompt, flags=re.DOTALL)
    noise = random.Random(hashlib.sha256(prompt.encode()).digest()).gauss(0, 1)
    return 1 / (1 + math.exp(-max(-9.0, min(9.0, 0.01 * (len(first) - len(second)) + noise))))


class NoisyJudge:
    id = "noisy"
    retries = 0

    def __init__(self, silent: int = 0) -> None:
        self.silent = silent

    def chat(self, requests: Sequence[ChatRequest], attempt: int = 0) -> list[ChatReply | Failure]:
        return [
            Failure("judge_error", "timeout") if n < self.silent else self.reply(request) for n, request in enumerate(requests)
        ]

    def reply(self, request: ChatRequest) -> ChatReply:
        first = preference(request.messages[-1]["content"])
        return ChatReply("m", ({"m": math.log(first), "M": math.log1p(-first)},))


def answers(suite: Alpaca, every: int = 1) -> list[Answer]:
    """Answers of random lengths, the reference itself but for `every`-th item."""
    rng = random.Random(5)
    return [
        Answer(item.id, str(item.reference) if n % every else f"answer {n} " + "a" * rng.randrange(600), "stop", 0)
        for n, item in enumerate(suite.items())
    ]


def percent(value: float | None) -> float:
    assert value is not None
    return 100 * value


# the items


def test_the_shipped_digests_are_805_and_name_the_same_list() -> None:
    digests = files._OFFICIAL_ROWS.read_text().split()
    assert len(set(digests)) == len(digests) == N
    assert all(re.fullmatch(r"[0-9a-f]{16}", digest) for digest in [*digests, files.OFFICIAL_HASH])


def test_defaults_are_the_official_setting(assets: Path) -> None:
    suite = Alpaca(Config())
    assert len(suite.items()) == N
    assert suite.identity == {
        "annotator": "weighted_alpaca_eval_gpt4_turbo",
        "both_orders": False,
        "length_control": "official",
        "baseline": "official",
    }
    calls = suite.calls(answers(suite))
    assert len(calls) == N
    assert 300 < sum(call.subkey == "12" for call in calls) < 500
    assert calls[0].request is not None
    assert (calls[0].request.max_tokens, calls[0].request.temperature, calls[0].request.top_logprobs) == (1, 1.0, 5)


def test_a_path_to_the_official_items_is_official_too(assets: Path, rows: Rows, tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for path in (assets / NAME, table):
        suite = Alpaca(Config(items=str(path)))
        assert suite.identity["baseline"] == "official"
        assert suite.data_hash == Alpaca(Config()).data_hash
    other = Alpaca(Config(items=str(table), length_control="none"))
    assert other.data_hash != Alpaca(Config()).data_hash


def swapped(rows: Rows) -> Rows:
    return [*rows[:7], rows[8], rows[7], *rows[9:]]


@pytest.mark.parametrize(
    ("change", "items", "counts", "place"),
    [
        (swapped, 805, (0, 0, 0), "7: 'made-up question 8'"),
        (lambda rows: rows[:-1], 804, (1, 0, 0), "804: the end of the file"),
        (lambda rows: [*rows, rows[0]], 806, (0, 0, 1), "805: 'made-up question 0'"),
        (lambda rows: [{**rows[0], "output": "short"}, *rows[1:]], 805, (1, 1, 0), "0: 'made-up question 0'"),
        (lambda rows: [*rows[:3], {**rows[3], "instruction": "Made-up"}, *rows[4:]], 805, (1, 1, 0), "3: 'Made-up'"),
        (lambda rows: [*rows[:9], rows[2], *rows[10:]], 805, (1, 0, 1), "9: 'made-up question 2'"),
    ],
)
def test_items_that_are_not_the_official_ones_are_refused(
    assets: Path, rows: Rows, change: Any, items: int, counts: tuple[int, int, int], place: str
) -> None:
    (assets / NAME).write_text(json.dumps(change(rows)))
    with pytest.raises(SuiteError) as caught:
        Alpaca(Config()).items()
    missing, unknown, repeated = counts
    assert caught.value.message.endswith(
        f": {items} items of 805, {missing} missing, {unknown} unknown or changed, {repeated} repeated; "
        f"the first difference is at index {place}"
    )
    assert "--set items=PATH" in caught.value.fix


@pytest.mark.usefixtures("offline")
def test_absent_files_are_told_before_anything_is_paid(assets: Path) -> None:
    (assets / "df_gamed.csv").unlink()
    with pytest.raises(SuiteError, match=r"not on this machine.*data for length control") as caught:
        Alpaca(Config()).items()
    assert "HARNESS_ASSETS_DIR" in caught.value.fix
    assert "--set length_control=none" in caught.value.fix
    for choice in ("none", "length_only"):
        assert len(Alpaca(Config(length_control=choice)).items()) == N
    (assets / NAME).unlink()
    with pytest.raises(SuiteError, match="not on this machine") as caught:
        Alpaca(Config()).items()
    assert NAME in caught.value.fix


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("instruction_difficulty", "difficulty", "lacks the columns instruction_difficulty"),
        (",1,", ",2,", "first 805 rows are not the indices 0 to 804"),
        ("False,concise", "maybe,concise", "line 2 is not as the others"),
        (",False,concise", ",,concise", "line 2 is not as the others"),
    ],
)
def test_data_for_length_control_of_another_form_is_refused(assets: Path, old: str, new: str, told: str) -> None:
    path = assets / "df_gamed.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(SuiteError, match=told):
        Alpaca(Config()).items()


# length control


def test_official_length_control_is_for_the_official_items_only(assets: Path, rows: Rows, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(json.dumps(swapped(rows)))
    with pytest.raises(SuiteError, match=r"805 items in their order, got 805 others") as caught:
        Alpaca(Config(items=str(path), length_control="official")).items()
    assert "length_control=length_only" in caught.value.fix
    suite = Alpaca(Config(items=str(path)))
    assert suite.identity["length_control"] == "none"
    assert set(suite.aggregate(suite.grade(answers(suite), NoisyJudge()))) == {"win_rate", "win_rate_discrete", "length"}


@pytest.mark.parametrize("silent", [0, 40])
def test_length_controlled_win_rate_is_the_packages_own(
    assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: int
) -> None:
    suite = Alpaca(Config())
    given = answers(suite)
    records = suite.grade(given, NoisyJudge(silent))
    found = suite.aggregate(records)
    _, annotations, leaderboard = suite.export(tmp_path / "out", given, records, "student")
    monkeypatch.setattr(glm_winrate, "hf_hub_download", lambda **_: assets / "df_gamed.csv")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = glm_winrate.get_length_controlled_winrate(json.loads(annotations.read_text()), save_weights_dir=None)
    metric = found["length_controlled_win_rate"]
    assert (metric.n, metric.missing) == (N - silent, silent)
    assert percent(metric.value) == pytest.approx(theirs["length_controlled_winrate"], abs=1e-9)
    assert percent(metric.stderr) == pytest.approx(theirs["lc_standard_error"], abs=1e-9)
    assert percent(found["win_rate"].value) == pytest.approx(theirs["win_rate"], abs=1e-9)
    assert abs(percent(metric.value) - percent(found["win_rate"].value)) > 1, "the judge likes length"
    with leaderboard.open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["length_controlled_winrate"]) == pytest.approx(theirs["length_controlled_winrate"], abs=1e-9)
    assert float(row["lc_standard_error"]) == pytest.approx(theirs["lc_standard_error"], abs=1e-9)
    assert set(row) == {"", "mode", "avg_length", *theirs}


def test_length_control_without_a_verdict_or_a_difference_is_missing(assets: Path) -> None:
    suite = Alpaca(Config())
    nothing = suite.aggregate(suite.grade(answers(suite), NoisyJudge(silent=N)))["length_controlled_win_rate"]
    assert (nothing.value, nothing.stderr, nothing.n, nothing.missing) == (None, None, 0, N)
    records = suite.grade(answers(suite), NoisyJudge())
    for part in (records[:700], []):
        assert suite.aggregate(part)["length_controlled_win_rate"].value is None
    longer = [Answer(item.id, f"{item.reference} ", "stop", 0) for item in suite.items()]
    assert suite.aggregate(suite.grade(longer, NoisyJudge()))["length_controlled_win_rate"].value is None
    copied = [Answer(item.id, str(item.reference), "stop", 0) for item in suite.items()]
    itself = suite.aggregate(suite.grade(copied, NoisyJudge()))
    assert itself["length_controlled_win_rate"].value == itself["win_rate"].value == 0.5
    assert itself["length_controlled_win_rate"].stderr == 0.0


def test_the_fit_leaves_sklearn_and_the_package_as_they_were(assets: Path) -> None:
    import sklearn

    folder = Path(glm_winrate.__file__).parent
    before = (sklearn.get_config(), glm_winrate.hf_hub_download, set(folder.rglob("*.csv")))
    suite = Alpaca(Config())
    suite.aggregate(suite.grade(answers(suite), NoisyJudge()))
    assert (sklearn.get_config(), glm_winrate.hf_hub_download, set(folder.rglob("*.csv"))) == before


def test_length_only_is_the_mean_where_lengths_are_equal() -> None:
    wins = (0.25, 0.5, 1.0, None, 0.75)
    found = lc.length_only(wins, (9,) * 5, (4,) * 5)
    assert found is not None
    assert found.value == pytest.approx(0.625, abs=1e-6)
    assert found.stderr == pytest.approx(math.sqrt(np.var([0.25, 0.5, 1.0, 0.75]) / 4), rel=1e-4)
    assert lc.length_only((0.5, None), (1, 2), (3, 4)) is None


def test_length_only_finds_the_preference_behind_a_liking_for_length() -> None:
    rng = np.random.default_rng(0)
    reference = rng.integers(100, 2000, 3000)
    length = reference + rng.normal(800, 400, 3000).astype(int)
    delta = reference - length
    wins = 1 / (1 + np.exp(-(-0.4 - 2.0 * np.tanh(delta / delta.std(ddof=1)))))
    found = lc.length_only(tuple(wins.tolist()), tuple(reference.tolist()), tuple(length.tolist()))
    assert found is not None
    assert found.value == pytest.approx(1 / (1 + math.exp(0.4)), abs=2e-3)
    assert wins.mean() > 0.7
    binary = tuple((rng.random(3000) < wins).astype(float).tolist())
    noisy = lc.length_only(binary, tuple(reference.tolist()), tuple(length.tolist()))
    assert noisy is not None
    assert abs(noisy.value - 1 / (1 + math.exp(0.4))) < 3 * noisy.stderr < 0.25


def test_length_only_has_a_name_of_its_own_and_no_place_in_the_leaderboard(assets: Path, tmp_path: Path) -> None:
    suite = Alpaca(Config(length_control="length_only"))
    given = answers(suite)
    records = suite.grade(given, NoisyJudge())
    found = suite.aggregate(records)
    assert "length_controlled_win_rate" not in found
    assert 0 < percent(found["length_only_win_rate"].value) < percent(found["win_rate"].value)
    *_, leaderboard = suite.export(tmp_path, given, records, "student")
    assert "length_controlled_winrate" not in leaderboard.read_text()


def test_weights_give_the_win_rate_that_they_stand_for() -> None:
    weights = {"np.tanh(std_delta_len)": -9.0, "instruction_difficulty": 2.0, "not_gamed_baseline.astype(float)": math.log(3)}
    assert lc.length_controlled_from_weights(weights, (0.0, 0.0)) == pytest.approx(0.75)
    assert lc.length_controlled_from_weights(weights, (0.0, -math.log(3))) == pytest.approx((0.75 + 0.25) / 2)


# files of outputs


@pytest.fixture
def small(tmp_path: Path) -> Alpaca:
    rows = [{"instruction": f"q {n}\u2028?", "output": "r", "generator": "g"} for n in range(4)]
    (tmp_path / "items.json").write_text(json.dumps(rows))
    return Alpaca(Config(items=str(tmp_path / "items.json")))


def outputs(suite: Alpaca) -> Rows:
    texts = ["", 'a "b", c\nd', "x" * 1_000_000, "NA"]
    return [
        {"instruction": item.messages[0]["content"], "output": text, "generator": "m"}
        for item, text in zip(suite.items(), texts, strict=True)
    ][::-1]


def write(path: Path, rows: Any) -> Path:
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "json":
        text = json.dumps(rows)
    elif kind == "jsonl":
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        file = io.StringIO(newline="")
        writer = csv.DictWriter(file, list(rows[0]), delimiter="," if kind == "csv" else "\t")
        writer.writeheader()
        writer.writerows(rows)
        text = file.getvalue()
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["o.json", "o.jsonl", "o.csv", "o.tsv", "o.json.gz", "o.csv.gz"])
def test_outputs_are_joined_by_instruction_in_every_format(small: Alpaca, tmp_path: Path, name: str) -> None:
    found = small.read_outputs(write(tmp_path / name, outputs(small)))
    assert [answer.item_id for answer in found] == [item.id for item in small.items()]
    assert [answer.text for answer in found] == [row["output"] for row in outputs(small)[::-1]]
    records = small.grade(found, NoisyJudge())
    assert records[0].flags == ("empty",)
    assert [record.length for record in records] == [0, 10, 1_000_000, 2]
    assert csv.field_size_limit() == 131072


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda rows: rows[1:], r"3 outputs do not fit the 4 instructions: 1 missing \(first: 'q 3.*0 unknown, 0 repeated"),
        (lambda rows: [*rows, rows[2]], r"5 outputs .* 0 missing, 0 unknown, 1 repeated \(first: 'q 1"),
        (lambda rows: [*rows, {**rows[0], "instruction": "else"}], r"0 missing, 1 unknown \(first: 'else'\), 0 repeated"),
        (lambda rows: [{"instruction": "else", "output": "x"}], r"4 missing .* 1 unknown"),
        (lambda rows: [{"prompt": "q", "output": 3}, *rows], r"1 of 5 rows .* is an object with prompt \(str\), output \(int\)"),
        (lambda rows: [*rows[:2], {**rows[2], "output": None}, rows[3]], r"1 of 4 rows lack .* row 3"),
        (lambda rows: [*rows[:3], {**rows[3], "output": "\ud83d"}], r"1 of 4 rows hold half a character .* row 4"),
        (lambda rows: [*rows[:3], ["q", "x"]], r"row 4, is a list"),
        (lambda rows: [], "got an empty list"),
        (lambda rows: {"outputs": rows}, r"got an object with outputs \(list\)"),
    ],
)  # fmt: skip
def test_outputs_that_do_not_fit_are_refused_with_counts(small: Alpaca, tmp_path: Path, change: Any, told: str) -> None:
    with pytest.raises(SuiteError, match=re.compile(told, re.DOTALL)) as caught:
        small.read_outputs(write(tmp_path / "o.json", change(outputs(small))))
    assert ("another suite" in caught.value.fix) == ("4 missing" in told)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("o.json", b'[{"instruction": "\xff"}]', "byte 18 is not UTF-8"),
        ("o.json", b"[{]", "not JSON"),
        ("o.jsonl", b'{"instruction": "x", "output": "y"}\n{', "not JSON"),
        ("o.json.gz", b"[]", "not a whole gzip file"),
        ("o.json.gz", gzip.compress(b"[1]" * 99)[:-9], "not a whole gzip file"),
        ("o.csv", b'instruction,output\n"a,b', "not a table"),
        ("o.csv", b"instruction,output\na\n", "1 of 1 rows lack"),
        ("o.csv", b"", "got an empty list"),
        ("o.txt", b"hello", "does not tell the file's format"),
    ],
)
def test_files_that_cannot_be_read_are_refused(small: Alpaca, tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SuiteError, match=told):
        small.read_outputs(tmp_path / name)
    with pytest.raises(SuiteError, match=r"cannot read .*absent.json"):
        small.read_outputs(tmp_path / "absent.json")


# the package beside us, with the same judge


@pytest.fixture
def judge_server() -> Iterator[Stub]:
    stub = Stub()

    def answer(body: dict[str, Any]) -> Reply:
        first = preference(body["messages"][-1]["content"])
        top = [{"token": "m", "logprob": math.log(first)}, {"token": "M", "logprob": math.log1p(-first)}]
        choice = {
            "index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "m"},
            "logprobs": {"content": [{**top[0], "top_logprobs": top}]},
        }  # fmt: skip
        return Reply({"id": "1", "object": "chat.completion", "created": 0, "model": "judge", "choices": [choice],
                      "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}})  # fmt: skip

    stub.answer = answer
    yield stub
    stub.stop()


PACKAGE = """
import json, sys, warnings
warnings.simplefilter("ignore")
import alpaca_eval
from alpaca_eval.metrics import glm_winrate
outputs, references, gamed, out = sys.argv[1:]
glm_winrate.hf_hub_download = lambda **_: gamed
board, annotations = alpaca_eval.evaluate(
    model_outputs=outputs, reference_outputs=references, annotators_config="weighted_alpaca_eval_gpt4_turbo",
    caching_path=None, precomputed_leaderboard=None, output_path=None, is_return_instead_of_print=True,
    metric_kwargs={"save_weights_dir": None},
)
found = {"board": board.to_dict("records")[0], "preference": [row["preference"] for row in annotations]}
json.dump(found, open(out, "w"), default=float)
"""


def asked(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"])


def test_the_package_finds_the_same_with_the_same_judge(assets: Path, tmp_path: Path, judge_server: Stub) -> None:
    """Most answers are the reference itself, about which nobody is asked: 805 rows are needed, 805 calls are not."""
    suite = Alpaca(Config())
    given = answers(suite, every=10)
    client = Client(Endpoint(judge_server.url, "x"), None, Ledger(Budget({"prompts": 1})), "judge", "judge", "1", Tariff())
    records = suite.grade(given, ServedJudge(client))
    client.close()
    ours = [{key: body[key] for key in ("messages", "temperature", "max_tokens", "logprobs", "top_logprobs")}
            for body in judge_server.seen]  # fmt: skip
    judge_server.seen.clear()
    outputs, _, _ = suite.export(tmp_path / "out", given, records, "student")
    (tmp_path / "client.yaml").write_text(f"default: [{{api_key: x, base_url: '{judge_server.url}'}}]\n")
    subprocess.run(
        [sys.executable, "-c", PACKAGE, outputs, assets / NAME, assets / "df_gamed.csv", tmp_path / "found.json"],
        check=True, capture_output=True, cwd=tmp_path,
        env={**os.environ, "OPENAI_CLIENT_CONFIG_PATH": str(tmp_path / "client.yaml"), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    theirs = json.loads((tmp_path / "found.json").read_text())
    sent = [{key: body[key] for key in ours[0]} for body in judge_server.seen]
    assert len(ours) == 81
    assert sorted(sent, key=asked) == sorted(ours, key=asked)
    assert theirs["preference"] == pytest.approx([1 + score for score in suite.item_scores(records).values()], abs=1e-9)
    found, board = suite.aggregate(records), theirs["board"]
    for name, column, error in (
        ("win_rate", "win_rate", "standard_error"),
        ("length_controlled_win_rate", "length_controlled_winrate", "lc_standard_error"),
    ):
        assert percent(found[name].value) == pytest.approx(board[column], abs=1e-9)
        assert percent(found[name].stderr) == pytest.approx(board[error], abs=1e-9)
    assert percent(found["win_rate_discrete"].value) == pytest.approx(board["discrete_win_rate"], abs=1e-9)
    assert int(percent(found["length"].value) / 100) == board["avg_length"]
