"""`python -m tests.fuzz.mutants`, after `mutmut run`: an error for every mutant that no test notices, unless mutants.md
says why it changes nothing."""

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

LIST = Path(__file__).with_name("mutants.md")
MUTMUT = Path(sys.executable).with_name("mutmut")


class Equivalent(NamedTuple):
    """A row of the list: in functions named like `where`, `old` may become `new`."""

    where: str
    old: str
    new: str

    def explains(self, function: str, line: str, changed: str) -> bool:
        """Is this one replacement the whole difference?"""
        places = (found.start() for found in re.finditer(re.escape(self.old), line))
        return fnmatch(function, self.where) and any(
            line[:at] + self.new + line[at + len(self.old) :] == changed for at in places
        )


def listed(table: str) -> list[Equivalent]:
    rows = (re.split(r" (?<!\\)\| ", line.strip("| ")) for line in table.splitlines() if line.startswith("| `"))
    return [
        Equivalent(*(cell.removeprefix("`").removesuffix("`").replace("\\|", "|") for cell in row[:3])) for row in rows
    ]


def function_of(mutant: str) -> str:
    """`app.module.xǁJwtǁ_is_by__mutmut_3` is a mutant of `app.module.Jwt._is_by`, `app.module.x__holds__mutmut_1` of
    `app.module._holds`."""
    module, _, name = mutant.rpartition("__mutmut_")[0].rpartition(".")
    return f"{module}.{name.removeprefix('x').removeprefix('ǁ' if 'ǁ' in name else '_').replace('ǁ', '.')}"


def line_of(diff: str) -> tuple[str, str]:
    """The changed lines of a diff, before and after, each as one text."""
    lines = [line for line in diff.splitlines() if not line.startswith(("---", "+++"))]
    before, after = ("\n".join(line[1:] for line in lines if line.startswith(sign)) for sign in "-+")
    return before, after


def survivors(results: str) -> Iterator[tuple[str, str]]:
    """Every mutant of `mutmut results` that no test killed, and what became of it. `timeout` may be a run that broke."""
    for line in results.splitlines():
        mutant, _, status = line.strip().rpartition(": ")
        if mutant and status != "killed":
            yield mutant, status


def news(mutants: Iterable[tuple[str, str]], known: Sequence[Equivalent]) -> Iterator[str]:
    for mutant, status in mutants:
        if status == "not checked":  # the run was stopped
            yield f"{mutant}: {status}"
            continue
        diff = _mutmut("show", mutant)
        if status != "survived" or not any(one.explains(function_of(mutant), *line_of(diff)) for one in known):
            yield f"{mutant}: {status}\n{diff}"


def _mutmut(*arguments: str) -> str:
    return subprocess.run([MUTMUT, *arguments], check=True, capture_output=True, text=True).stdout


def main() -> None:
    mutants = list(survivors(_mutmut("results")))
    unknown = list(news(mutants, listed(LIST.read_text("utf-8"))))
    print(*unknown, f"{len(mutants) - len(unknown)} mutants change nothing, as {LIST.name} says", sep="\n")
    if unknown:
        sys.exit(
            f"{len(unknown)} mutants that no test notices: write a test, or say in {LIST.name} why it changes nothing"
        )


if __name__ == "__main__":
    main()
