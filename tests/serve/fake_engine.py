"""fake_engine.py --port N [--name NAME] [--ready-after S] [--orphan] [--stubborn]: an engine made of nothing.

GET /health is 503 until it is ready and after POST /sicken; POST /crash ends it with status 3; any other POST
answers with its name.
--orphan leaves a double-forked process in a session of its own; --stubborn ignores SIGTERM.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", default="fake")
    parser.add_argument("--ready-after", type=float, default=0.0)
    parser.add_argument("--orphan", action="store_true")
    parser.add_argument("--stubborn", action="store_true")
    options = parser.parse_args()
    ready_at = time.monotonic() + options.ready_after

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            ready = time.monotonic() >= ready_at
            self.reply(404 if self.path != "/health" else 200 if ready else 503, {})

        def do_POST(self) -> None:
            nonlocal ready_at
            if self.path == "/crash":
                print("crashing as asked", flush=True)
                os._exit(3)
            if self.path == "/sicken":
                ready_at = float("inf")
            self.reply(200, {"model": options.name})

        def reply(self, status: int, body: object) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    if options.orphan:
        orphan()
    signal.signal(signal.SIGTERM, signal.SIG_IGN if options.stubborn else leave)
    print(f"fake engine {options.name} on {options.port}", flush=True)
    print("half a bar\rLoading weights: 100%", file=sys.stderr, flush=True)
    ThreadingHTTPServer(("127.0.0.1", options.port), Answer).serve_forever()


def orphan() -> None:
    """Leave a process that no parent-death signal and no process group reaches."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                time.sleep(60)
        os._exit(0)
    os.wait()


def leave(*_: object) -> None:
    print(f"leaving at {time.time()}", flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
