"""`trimtab train METHOD …`: finds the trainer and hands it the rest of the command line."""

import importlib
import sys
from collections.abc import Callable

# method: (module:function, what it makes). The function takes the arguments after the method, and returns a status.
METHODS: dict[str, tuple[str, str]] = {
    "cpt": ("trainers.cpt:main", "a base model: continued pretraining on plain text, or from nothing"),
}
USAGE = "usage: trimtab train METHOD [options]   (trimtab train METHOD --help; trimtab train --list)"


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help", "--list"):
        if arguments[:1] != ["--list"]:
            print(USAGE + "\n")
        print("\n".join(f"{name:<8} {text}" for name, (_, text) in sorted(METHODS.items())))
        return 0 if arguments else 2
    method, *rest = arguments
    if method not in METHODS:
        print(f"trimtab train: no method {method!r}; methods: {', '.join(sorted(METHODS))}", file=sys.stderr)
        return 2
    module, _, function = METHODS[method][0].partition(":")
    entry: Callable[[list[str]], int] = getattr(importlib.import_module(module), function)
    return entry(rest)
