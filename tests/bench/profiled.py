"""Runs a module: `python -m tests.bench.profiled FILE MODULE …`. From SIGUSR1 to the end, cProfile fills the file."""

import cProfile
import runpy
import signal
import sys


def main() -> None:
    _, file, module, *_ = sys.argv
    sys.argv = sys.argv[2:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises the signal again when it has stopped
    profiler = cProfile.Profile()
    signal.signal(signal.SIGUSR1, lambda *_: profiler.enable())
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        profiler.disable()
        profiler.dump_stats(file)


if __name__ == "__main__":
    main()
