"""An engine whose answer is a function of the request's seed: `python -m tests.trainers.seeded_engine MODEL PORT`."""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from tests.trainers.scripted_critic import parts
from trainers.judge.aspects import ASPECTS

TEXTS = ("rain fell", "the cat sat", "a dog ran off")


class SeededEngine:
    """Serves in a thread; `requests` are the bodies of all POSTs by path."""

    def __init__(self, model: str = "actor", port: int = 0) -> None:
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.model, engine = model, self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._send({"data": [{"id": engine.model}]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                engine.requests.append((self.path, body))
                self._send(engine.answer(self.path, body))

            def _send(self, value: dict[str, Any]) -> None:
                data = json.dumps(value).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *rest: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path.endswith("load_lora_adapter"):
            return {}
        if "seed" not in body:  # it is asked for marks
            found = parts(body["messages"][-1]["content"])[-1]
            text = json.dumps(dict.fromkeys(ASPECTS, 5 if found == TEXTS[0] else 2))
        else:
            text = TEXTS[body["seed"] % len(TEXTS)]
        choice: dict[str, Any] = {"finish_reason": "stop", "index": 0}
        choice |= {"message": {"role": "assistant", "content": text}} if "messages" in body else {"text": text}
        if body.get("return_token_ids"):
            choice["token_ids"] = [len(word) for word in text.split()]
            logprobs = [-float(len(word)) for word in text.split()]
            content = [{"token": "x", "logprob": value} for value in logprobs]
            choice["logprobs"] = {"content": content} if "messages" in body else {"token_logprobs": logprobs}
        return {"choices": [choice]}

    def __enter__(self) -> Self:
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(10)


if __name__ == "__main__":
    SeededEngine(sys.argv[1], int(sys.argv[2])).server.serve_forever()
