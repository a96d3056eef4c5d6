"""Time to judge 805 pairs: the harness beside the package `alpaca_eval`, with one judge server on loopback.

    python benchmarks/alpaca_judging.py --out benchmarks/results/NAME.json

Each side runs in a process of its own, from files of items and outputs to a win rate: imports, prompts, 805 calls (the
harness caches each reply on disk as it comes), reading of replies and statistics. The judge answers at once. Both must
find the same win rate. Without length control on either side.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

ITEMS = 805
SERVER = "server"


def logprob_of_first(prompt: str) -> float:
    """A made-up judge, drawn from the prompt."""
    return math.log(random.Random(prompt).uniform(0.01, 0.99))


def serve() -> None:
    """A judge on loopback; prints its address and runs until it is ended."""
    import socket

    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def chat(request: Request) -> JSONResponse:
        body = await request.json()
        first = logprob_of_first(body["messages"][-1]["content"])
        top = [{"token": "m", "logprob": first}, {"token": "M", "logprob": math.log1p(-math.exp(first))}]
        message = {"role": "assistant", "content": "m"}
        logprobs = {"content": [{**top[0], "top_logprobs": top}]}
        choice = {"index": 0, "finish_reason": "stop", "message": message, "logprobs": logprobs}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        head = {"id": "1", "object": "chat.completion", "created": 0, "model": "judge"}
        return JSONResponse({**head, "choices": [choice], "usage": usage})

    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", flush=True)
    app = Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])
    uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off")).run(sockets=[listener])


def ours(folder: Path, url: str, concurrency: int) -> dict[str, float]:
    """The harness's way, with its cache of replies."""
    from harness.clients.cache import ReplyCache
    from harness.clients.metered import Client, Tariff
    from harness.clients.openai import Endpoint
    from harness.clients.roles import ServedJudge
    from harness.ledger import Budget, Ledger
    from suites.alpaca import Alpaca, Config

    suite = Alpaca(Config(items=str(folder / "references.json")))
    cache = ReplyCache(folder / "cache")
    client = Client(Endpoint(url, "x"), cache, Ledger(Budget({"prompts": 1})), "judge", "judge", "1", Tariff(), concurrency)
    found = suite.aggregate(suite.grade(suite.read_outputs(folder / "outputs.json"), ServedJudge(client)))
    client.close()
    cache.close()
    return {"win_rate": 100 * (found["win_rate"].value or math.nan), "judged": found["win_rate"].n}


def theirs(folder: Path) -> dict[str, float]:
    """The package's way, with its cache of annotations; it reads address and threads from its environment."""
    import alpaca_eval

    board, _ = alpaca_eval.evaluate(
        model_outputs=str(folder / "outputs.json"), reference_outputs=str(folder / "references.json"),
        annotators_config="weighted_alpaca_eval_gpt4_turbo", caching_path=str(folder / "annotations.json"),
        precomputed_leaderboard=None, output_path=None, fn_metric="get_winrate", sort_by="win_rate",
        is_return_instead_of_print=True,
    )  # fmt: skip
    return {"win_rate": float(board["win_rate"].iloc[0]), "judged": int(board["n_total"].iloc[0])}


def timed(side: str, folder: Path, url: str, concurrency: int) -> dict[str, float]:
    """One side in a process of its own: what it found, and its seconds from start to end."""
    client = folder / "client.yaml"
    client.write_text(f"default: [{{api_key: x, base_url: '{url}'}}]\n", encoding="utf-8")
    environment = {
        **os.environ, "OPENAI_CLIENT_CONFIG_PATH": str(client), "OPENAI_MAX_CONCURRENCY": str(concurrency), "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, side, "--folder", str(folder), "--url", url, "--concurrency", str(concurrency)],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-2000:]}")
    return {**json.loads(done.stdout.splitlines()[-1]), "seconds": time.perf_counter() - start}


def write_texts(folder: Path, items: int) -> None:
    """Made-up items and outputs of the lengths that chat models write."""
    rng = random.Random(0)
    words = re.findall(r"\w+", __doc__ or "")
    for name, generator in (("references", "reference"), ("outputs", "model")):
        rows = [
            {"instruction": f"made-up instruction {n}", "output": " ".join(rng.choices(words, k=rng.randrange(50, 500))),
             "generator": generator, "dataset": "made up"}
            for n in range(items)
        ]  # fmt: skip
        (folder / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")


def compare(items: int, concurrency: int) -> dict[str, Any]:
    """Both sides, one after the other, with the same server."""
    with subprocess.Popen([sys.executable, __file__, SERVER], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            found = {}
            for side in ("ours", "theirs"):
                with tempfile.TemporaryDirectory() as folder:
                    write_texts(Path(folder), items)
                    found[side] = timed(side, Path(folder), url, concurrency)
        finally:
            server.terminate()
    if abs(found["ours"]["win_rate"] - found["theirs"]["win_rate"]) > 1e-9:
        raise SystemExit(f"the two sides do not agree: {found}")
    versions = {name: metadata.version(name) for name in ("alpaca_eval", "openai")}
    ratio = found["theirs"]["seconds"] / found["ours"]["seconds"]
    return {"items": items, "concurrency": concurrency, **found, "ratio": ratio, "versions": versions, "load": os.getloadavg()[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("side", nargs="?", choices=[SERVER, "ours", "theirs"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--out", type=Path, help="where the figures go as JSON")
    given = parser.parse_args()
    if given.side == SERVER:
        serve()
    elif given.side:
        print(json.dumps(ours(given.folder, given.url, given.concurrency) if given.side == "ours" else theirs(given.folder)))
    else:
        found = compare(given.items, given.concurrency)
        print(json.dumps(found, indent=2))
        if given.out:
            given.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
