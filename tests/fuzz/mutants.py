"""`python -m tests.fuzz.mutants`, after `mutmut run`: fail for every surviving mutant that mutants.md does not explain."""

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

MUTANT_LIST = Path(__file__).with_name("mutants.md")
MUTMUT = Path(sys.executable).with_name("mutmut")


class Equivalent(NamedTuple):
    """A row of the list: in functions named like `where`, `old` may become `new`."""

    where: str
    old: str
    new: str

    def explains(self, function: str, line: str, changed: str) -> bool:
        """Return whether this one replacement is the whole difference."""
        positions = (match.start() for match in re.finditer(re.escape(self.old), line))
        return fnmatch(function, self.where) and any(
            line[:position] + self.new + line[position + len(self.old) :] == changed for position in positions
        )


def parse_list(table: str) -> list[Equivalent]:
    rows = (re.split(r" (?<!\\)\| ", line.strip("| ")) for line in table.splitlines() if line.startswith("| `"))
    return [
        Equivalent(*(cell.removeprefix("`").removesuffix("`").replace("\\|", "|") for cell in row[:3])) for row in rows
    ]


def function_of(mutant: str) -> str:
    """Return the function of a mutant.

    `app.module.xǁJwtǁ_is_by__mutmut_3` is a mutant of `app.module.Jwt._is_by`, `app.module.x__holds__mutmut_1` of
    `app.module._holds`.
    """
    module, _, name = mutant.rpartition("__mutmut_")[0].rpartition(".")
    return f"{module}.{name.removeprefix('x').removeprefix('ǁ' if 'ǁ' in name else '_').replace('ǁ', '.')}"


def line_of(diff: str) -> tuple[str, str]:
    """Return the changed lines of a diff, before and after, each as one text."""
    lines = [line for line in diff.splitlines() if not line.startswith(("---", "+++"))]
    before, after = ("\n".join(line[1:] for line in lines if line.startswith(sign)) for sign in "-+")
    return before, after


def survivors(results: str) -> Iterator[tuple[str, str]]:
    """Yield every mutant of `mutmut results` that no test killed, with its status. `timeout` may be a failed run."""
    for line in results.splitlines():
        mutant, _, status = line.strip().rpartition(": ")
        if mutant and status != "killed":
            yield mutant, status


def unexplained(mutants: Iterable[tuple[str, str]], equivalents: Sequence[Equivalent]) -> Iterator[str]:
    for mutant, status in mutants:
        if status == "not checked":  # the run was stopped
            yield f"{mutant}: {status}"
            continue
        diff = _mutmut("show", mutant)
        if status != "survived" or not any(row.explains(function_of(mutant), *line_of(diff)) for row in equivalents):
            yield f"{mutant}: {status}\n{diff}"


def _mutmut(*arguments: str) -> str:
    return subprocess.run([MUTMUT, *arguments], check=True, capture_output=True, text=True).stdout


def main() -> None:
    mutants = list(survivors(_mutmut("results")))
    new_mutants = list(unexplained(mutants, parse_list(MUTANT_LIST.read_text("utf-8"))))
    print(
        *new_mutants, f"{len(mutants) - len(new_mutants)} mutants change nothing, as {MUTANT_LIST.name} says", sep="\n"
    )
    if new_mutants:
        sys.exit(
            f"{len(new_mutants)} mutants survived: write a test, or explain in {MUTANT_LIST.name} why they change nothing"
        )


if __name__ == "__main__":
    main()
