"""`python -m tests.fuzz TARGET [SECONDS]`: fuzz one target with atheris, for an hour by default.

A violated rule ends the run with an error, and the input is stored in tests/fuzz/corpus/TARGET.
"""

import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-not-found, unused-ignore]

LIMITS = ["-max_len=4096", "-timeout=20", "-rss_limit_mb=2048"]
CORPUS = Path(__file__).parent / "corpus"


def main(target: str, seconds: str = "3600") -> None:
    with atheris.instrument_imports(include=["app"]):
        from app.webhooks.registry import load_sources
        from tests.fuzz.targets import TARGETS, seeds

        load_sources()  # inside the block, so that the sources are instrumented too
    corpus = CORPUS / target
    corpus.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(seeds(target)):
            (Path(folder) / f"seed-{number}").write_bytes(seed)
        options = [f"-artifact_prefix={corpus}/", f"-max_total_time={seconds}", *LIMITS, "-print_final_stats=1"]
        atheris.Setup([sys.argv[0], folder, str(corpus), *options], TARGETS[target])
        atheris.Fuzz()


main(*sys.argv[1:])
