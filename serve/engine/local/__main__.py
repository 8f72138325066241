"""python -m serve.engine.local MODEL --port N: serve one model, on the loopback interface only.

Trimtab launches it and stands before it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import uvicorn

from serve.engine.local.web import Engine, application


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
    uvicorn.run(
        application(engine, temperature=args.temp),
        host="127.0.0.1",
        port=args.port,
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main()
