"""The pocket server as a process: the neural teacher, the scripted critic and the scripted judge on loopback.

`OracleProcess` starts one as a child and stops it; `python -m harness.pocket.oracle` is what the child runs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import queue
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from harness.errors import EnvironmentFault

from .critic import CriticKnobs
from .endpoints import CRITIC, JUDGE, TEACHER, FaultKnobs, create_app
from .judge import JudgeKnobs

__all__ = [
    "CRITIC", "JUDGE", "TEACHER", "CriticKnobs", "FaultKnobs", "JudgeKnobs", "OracleConfig", "OracleProcess", "create_app",
    "revision", "serve",
]  # fmt: skip

TOKEN_VARIABLE = "HARNESS_ORACLE_TOKEN"
_REPLY_SOURCES = (
    "pocket/words.py", "pocket/tasks.py", "pocket/checker.py", "pocket/reading.py", "pocket/features.py", "pocket/protocol.py",
    "pocket/demands.py", "pocket/ranker.py", "pocket/critic.py", "pocket/judge.py", "pocket/judge_ratings.py",
    "pocket/judge_verdicts.py", "pocket/teacher.py", "pocket/endpoints.py", "generate/hf.py", "generate/decode.py", "seeds.py",
)  # fmt: skip


@dataclass(frozen=True)
class OracleConfig:
    teacher_folder: str | None = None
    critic: CriticKnobs = field(default_factory=CriticKnobs)
    judge: JudgeKnobs = field(default_factory=JudgeKnobs)
    faults: FaultKnobs = field(default_factory=FaultKnobs)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> OracleConfig:
        data = json.loads(text)
        return OracleConfig(
            data["teacher_folder"], CriticKnobs(**data["critic"]), JudgeKnobs(**data["judge"]), FaultKnobs(**data["faults"])
        )


def revision(config: OracleConfig) -> str:
    """A digest of everything that decides replies: sources, knobs, the teacher's files. Servers of equal revision give
    equal replies to equal requests."""
    total = hashlib.sha256()
    root = Path(__file__).parent.parent
    knobs = dataclasses.replace(config, teacher_folder=None).to_json()
    parts = [knobs.encode(), *((root / name).read_bytes() for name in _REPLY_SOURCES)]
    if config.teacher_folder:
        parts += [path.name.encode() + b"\0" + path.read_bytes() for path in sorted(Path(config.teacher_folder).iterdir())]
    for part in parts:
        total.update(hashlib.sha256(part).digest())
    return total.hexdigest()[:16]


def serve(config: OracleConfig, port: int, token: str, until_stdin_closes: bool = False) -> None:
    """Serves on loopback until it is interrupted; says `listening on URL` on stdout when ready.

    Args:
        port: 0 picks a free one.
        until_stdin_closes: ends as well when stdin is closed, as it is when the parent process is gone.

    Raises:
        EnvironmentFault: the port is taken.
    """
    import uvicorn

    # asyncio turns Nagle's delays (40 ms a reply) off only where the protocol is named
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        listener.close()
        message = f"port {port} on 127.0.0.1 cannot be used: {error.strerror}"
        raise EnvironmentFault(message, where="--port", fix="--port 0") from error

    class Announcing(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}/v1", flush=True)

    folder = Path(config.teacher_folder) if config.teacher_folder else None
    app = create_app(folder, config.critic, config.judge, token, config.faults)
    server = Announcing(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=1))
    if until_stdin_closes:

        def watch() -> None:
            sys.stdin.buffer.read()
            server.should_exit = True

        threading.Thread(target=watch, daemon=True).start()
    server.run(sockets=[listener])


class OracleProcess:
    """A server in a child process; a context manager. The child ends with its parent, however that ends.

    It starts at once and is waited for when its `url` is first asked for.

    Attributes:
        token: the API key that clients send.
    """

    def __init__(self, config: OracleConfig, port: int = 0, patience: float = 180.0) -> None:
        self.config, self.token, self._patience, self._url = config, secrets.token_urlsafe(24), patience, ""
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the child)
        self._child = subprocess.Popen(
            [sys.executable, "-m", "harness.pocket.oracle", "--port", str(port), "--config", config.to_json()],
            env={**os.environ, TOKEN_VARIABLE: self.token},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._words, text=True,
        )  # fmt: skip
        assert self._child.stdout
        self._said: queue.Queue[str] = queue.Queue()
        threading.Thread(target=lambda out: self._said.put(out.readline()), args=(self._child.stdout,), daemon=True).start()

    @property
    def url(self) -> str:
        """The base URL that OpenAI clients take; waits for the server to come up.

        Raises:
            EnvironmentFault: it did not come up in time; its last words are in the message.
        """
        if not self._url:
            try:
                line = self._said.get(timeout=self._patience)
            except queue.Empty:
                line = ""
            if not line.startswith("listening on "):
                self.stop()
                self._words.seek(0)
                last = self._words.read().decode(errors="replace").strip()[-2000:]
                raise EnvironmentFault(
                    f"the pocket server did not come up within {self._patience:g} s: {last or 'it said nothing'}"
                )
            self._url = line.removeprefix("listening on ").strip()
        return self._url

    def usage(self) -> dict[str, dict[str, int]]:
        """The server's own log: calls, prompt_tokens and completion_tokens of each model that was asked."""
        request = urllib.request.Request(
            f"{self.url.removesuffix('/v1')}/usage", headers={"Authorization": f"Bearer {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=10) as reply:
            return dict(json.load(reply))

    def stop(self) -> None:
        """Ends the server and waits until it is gone."""
        assert self._child.stdin
        self._child.stdin.close()
        try:
            self._child.wait(5)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def __enter__(self) -> OracleProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _main() -> None:
    import argparse

    parser = argparse.ArgumentParser(prog="python -m harness.pocket.oracle", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--config", default=OracleConfig().to_json(), help="JSON of an OracleConfig")
    arguments = parser.parse_args()
    try:
        token = os.environ.get(TOKEN_VARIABLE, "")
        if not token:
            raise EnvironmentFault(f"no token: the variable {TOKEN_VARIABLE} is not set", where=TOKEN_VARIABLE)
        serve(OracleConfig.from_json(arguments.config), arguments.port, token, until_stdin_closes=True)
    except EnvironmentFault as error:
        print(f"{error.code} {error.message}" + (f" (try {error.fix})" if error.fix else ""), file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    _main()
