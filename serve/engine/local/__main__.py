"""python -m serve.engine.local MODEL --port N: serve one model, on the loopback interface only.

Trimtab launches it and stands before it.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import socket
import sys
from pathlib import Path

from serve.engine.local.web import Engine, application
from serve.http.listener import Listener, run
from serve.http.site import Site

_DRAIN_S = 2.0  # Trimtab, which asks us, has ended its own answers by then


def main() -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser("serve.engine.local", description=__doc__)
    parser.add_argument("model", type=Path, help="a GGUF file, or a folder of transformers")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", help="what the model is called (default: the model's)")
    parser.add_argument("--threads", type=int, help="default: one for each processor")
    parser.add_argument("--temp", type=float, default=1.0, help="temperature of requests that name none (default: 1)")
    args = parser.parse_args()
    try:
        engine = Engine(args.model, args.name or args.model.stem, args.threads)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    run(_serve(engine, args.port, args.temp))


async def _serve(engine: Engine, port: int, temperature: float) -> None:
    stopped, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    server = Listener(Site({}, application(engine, temperature=temperature)), drain_s=_DRAIN_S)
    with socket.create_server(("127.0.0.1", port)) as listener:
        await server.start([listener])
        await stopped.wait()
        await server.stop()
    engine.scheduler.stop()


if __name__ == "__main__":
    main()
