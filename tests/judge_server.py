"""A real OpenAI-compatible endpoint on loopback that grades, fails, stalls and babbles as told."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Said:
    """One answer of the endpoint. body: raw bytes instead of a completion; stall: seconds before it;
    drip: seconds before each of its bytes."""

    text: str | None = "Fine. [RESULT] 4"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    stall: float = 0.0
    drip: float = 0.0
    usage: bool = True


@dataclass
class JudgeServer:
    """url: what `base_url` is; asked: bodies of the requests so far; keys: their Authorization headers."""

    answer: Callable[[int, dict[str, Any]], Said]
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)


@contextmanager
def judge_server(answer: Callable[[int, dict[str, Any]], Said]) -> Iterator[JudgeServer]:
    """Serve until the block ends; answer(n, body) says what the n-th request (from 0) gets."""
    told, lock = JudgeServer(answer), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(told.asked)
                told.asked.append({**body, "path": self.path})
                told.keys.append(self.headers["Authorization"])
            said = told.answer(number, body)
            told.over.wait(said.stall)
            payload = said.body if said.body is not None else _completion(said)
            try:
                self.send_response(said.status)
                for name, value in {**said.headers, "Content-Length": str(len(payload))}.items():
                    self.send_header(name, value)
                self.end_headers()
                for k in range(len(payload) if said.drip else 0):
                    told.over.wait(said.drip)
                    self.wfile.write(payload[k : k + 1])
                self.wfile.write(b"" if said.drip else payload)
            except OSError:
                # The client has given up waiting.
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        # The default of 5 makes clients that connect at the same moment wait for a second try.
        request_queue_size = 64

    server = Server(("127.0.0.1", 0), Handler)
    told.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield told
    finally:
        told.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def _completion(said: Said) -> bytes:
    found: dict[str, Any] = {"choices": [{"message": {"role": "assistant", "content": said.text}}]}
    if said.usage:
        found["usage"] = {"prompt_tokens": 100, "completion_tokens": 7}
    return json.dumps(found).encode()
