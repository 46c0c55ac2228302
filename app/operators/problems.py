"""The problems that the overview shows, and what an operator does first about each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple
from urllib.parse import quote

#: The worst first.
Level = Literal["bad", "warn", "new", "good"]
ProblemKind = Literal[
    "workers",
    "api",
    "memory",
    "stalled",
    "moving",
    "moved",
    "unusable",
    "connection",
    "credentials",
    "signatures",
    "silent",
    "paused",
    "failures",
    "slow",
    "lost",
    "payload",
]


class FirstStep(NamedTuple):
    """What to do first: a command; in the console a button, and the page that it opens. {hook}, {source}: of the problem."""

    command: str
    button: str
    page: str


FIRST_STEPS: Mapping[ProblemKind, FirstStep] = {
    "workers": FirstStep("doorbell worker", "Show workers", "/console/workers"),
    "api": FirstStep("doorbell doctor", "Show accounts", "/console/sources#accounts"),
    "memory": FirstStep("doorbell doctor", "Show data retention", "/console/settings/retention"),
    "stalled": FirstStep("doorbell doctor", "Show workers", "/console/workers"),
    "moving": FirstStep("doorbell move {hook} --to CELL", "Show accounts", "/console/sources#accounts"),
    "moved": FirstStep("doorbell rejections --hook {hook}", "Show rejections", "/console/rejections?hook={hook}"),
    "unusable": FirstStep("doorbell hooks", "Show the hook", "/console/hooks/{hook}"),
    "connection": FirstStep("doorbell connections", "Show the connection", "/console/hooks/{hook}#connection"),
    "credentials": FirstStep("doorbell sources {hook}", "Show the steps", "/console/sources/{source}"),
    "signatures": FirstStep("doorbell rejections --hook {hook}", "Show rejections", "/console/rejections?hook={hook}"),
    "silent": FirstStep("doorbell deliveries --hook {hook}", "Show the steps", "/console/sources/{source}"),
    "paused": FirstStep("doorbell resume {hook}", "Resume…", "/console/sources#accounts"),
    "failures": FirstStep("doorbell failures", "Show failures", "/console/failures"),
    "slow": FirstStep("doorbell workers", "Show workers", "/console/workers"),
    "lost": FirstStep("doorbell doctor", "Show checks", "/console/settings"),
    "payload": FirstStep("doorbell drift", "Show changes", "/console/sources/{source}#payload"),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem that needs action.

    hook: the hook that it is about; of a paused account, one of its hooks, or the account itself if it has none.
    """

    kind: ProblemKind
    level: Level
    sentence: str
    hook: str = ""

    def first_step(self, source: str = "") -> FirstStep:
        """Return what to do first. source: that of the hook."""
        command, button, page = FIRST_STEPS[self.kind]
        if "{hook}" in command and not self.hook:
            command = "doorbell doctor"
        return FirstStep(command.format(hook=self.hook), button, page.format(hook=quote(self.hook), source=source))
