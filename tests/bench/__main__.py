"""Benchmarks: `python -m tests.bench PART …`. Without a part, it lists them; `all` runs the first group.

A part is a module with a docstring and `main`. It prints medians over ROUNDS (5) and their ratios, and has no limits,
since machines are shared. docs/performance.md has figures, and how to read them.
"""

import ast
import importlib
import signal
import sys
from pathlib import Path

from tests.bench.servers import machine

#: `make bench` runs these. The others take long, or compare what few people need.
STANDARD = ("intake", "latency", "peers", "apply", "workers", "hanging", "smallest", "memory", "start")
SPECIAL = ("growth", "idle", "instructions", "soak", "profile", "desk", "choices")


def summary(part: str) -> str:
    text = ast.get_docstring(ast.parse(Path(__file__).with_name(f"{part}.py").read_text())) or ""
    return text.partition("\n")[0]


def main(arguments: list[str]) -> None:
    parts = [part for argument in arguments for part in (STANDARD if argument == "all" else (argument,))]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends what was started
    if unknown := sorted(set(parts) - {*STANDARD, *SPECIAL}):
        sys.exit(f"unknown: {', '.join(unknown)}; `python -m tests.bench` lists the parts")
    for part in parts:
        print(f"\n== {part}: {machine()}", flush=True)
        importlib.import_module(f"tests.bench.{part}").main()
    if not parts:
        print("python -m tests.bench PART …\n")
        for title, names in (("all", STANDARD), ("alone", SPECIAL)):
            print(f"{title}:")
            print("\n".join(f"  {name:10}{summary(name)}" for name in names))


if __name__ == "__main__":
    main(sys.argv[1:])
