"""Why a task is not done, and how to fix it.

A reason is a key of REASONS, alone or followed by `: details`, or a failed call (`POST /visits: 422`).
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reason:
    """meaning: for docs/glossary.md. title, cause, actions: for people who do not know Doorbell's terms.

    actions: what an operator can do, the most helpful first; empty if no action is needed.
    commands: those of the actions that the command line can do. ID is a visit or delivery. is_final: a replay fails again,
    unless the code of Doorbell changed.
    """

    meaning: str
    title: str
    cause: str
    actions: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    is_final: bool = False

    def commands_for(self, id: str) -> list[str]:
        return [re.sub(r"\bID\b", lambda _: id, command) for command in self.commands]


_REPLAY, _DISCARD = "doorbell replay ID --yes", "doorbell discard ID --yes"
_TOKEN_REJECTED = Reason(
    "the API does not accept the token",
    "The token is rejected",
    "The API does not accept the token, or the token lacks a permission.",
    ("Set a valid token.",),
    ("doorbell doctor",),
)
_RATE_LIMITED = Reason(
    "the API limits the rate",
    "The API limits the rate",
    "Doorbell waits as long as the API requires, then continues.",
)
#: The console, the command line, docs/glossary.md and docs/runbook.md show them.
REASONS = {
    "account_moves": Reason(
        "the account is moving to another cell",
        "The account is moving to another cell",
        "`doorbell move` copies its data to another Redis. Its tasks continue there.",
    ),
    "account_paused": Reason(
        "an operator paused the account",
        "The account is paused",
        "An operator paused the account. The task continues when it is resumed.",
    ),
    "api_down": Reason(
        "the API does not answer the calls of the account",
        "The API does not answer",
        "Calls for other visits failed. The task continues as soon as one succeeds.",
    ),
    "api_rate_limited": _RATE_LIMITED,
    "body_changed": Reason(
        "the body was changed after it was encrypted",
        "The delivery was changed in Redis",
        "The body of this delivery is encrypted, and is not what Doorbell stored: another program wrote to Redis.",
        ("Make the tool send the event again.", "Discard the failure."),
        (_DISCARD,),
        is_final=True,
    ),
    "body_erased": Reason(
        "the body was erased, with the personal data in it",
        "The delivery was erased",
        "The personal data of a customer was erased, and with it the body of this delivery.",
        ("Discard the failure.", "Make the tool send the event again, if the visit is still needed."),
        (_DISCARD,),
        is_final=True,
    ),
    "body_key_unknown": Reason(
        "the key that encrypted the body is not in BODY_KEYS",
        "The delivery cannot be decrypted",
        "The key that encrypted its body was removed from BODY_KEYS.",
        ("Add the key to BODY_KEYS again, then replay.",),
        (_REPLAY,),
    ),
    "contact_unknown": Reason(
        "no change has an e-mail address or a contact id",
        "No e-mail address",
        "The booking came without an e-mail address, so Review Rover cannot tell whose visit this is.",
        (
            "Enter the customer's e-mail address or contact id, and replay.",
            "Add the address at the tool; the tool then sends the booking again.",
            "Discard the failure: no review request will be sent.",
        ),
        ("doorbell replay ID --contact EMAIL --yes", _DISCARD),
    ),
    "crashed_repeatedly": Reason(
        "the worker died during five runs in a row",
        "The worker crashed five times",
        "The worker process died during every run of this task.",
        ("Find the cause in the worker's log.", "Replay the task when the cause is fixed."),
        (_REPLAY,),
    ),
    "credentials_missing": Reason(
        "a setting with a credential of the tool is missing",
        "A credential is missing",
        "The tool sends only an id, and Doorbell lacks the credential to fetch the record.",
        ("Set the credential that the details name, then replay.",),
        ("doorbell replay --state parked --reason credentials --yes",),
    ),
    "credentials_rejected": Reason(
        "the tool rejects the credentials of the hook",
        "The tool rejects the credentials",
        "The token or password for the tool's API expired, was revoked, or lacks a permission.",
        (
            "Set new credentials of the tool, then replay.",
            "If the attempt says that a new refresh token was lost, connect the account again.",
        ),
        ("doorbell replay --state parked --reason credentials --yes",),
    ),
    "deadline_passed": Reason(
        "the run had no time left for another call",
        "The run took too long",
        "Earlier calls of the run were slow. It continues within 2 seconds.",
    ),
    "delivery_expired": Reason(
        "the delivery expired before it was translated",
        "The delivery expired",
        "Its body was deleted after RETENTION_DAYS, before a worker could translate it.",
        ("Discard the failure.", "Make the tool send the event again, if the visit is still needed."),
        (_DISCARD,),
        is_final=True,
    ),
    "hook_not_configured": Reason(
        "the hook of the delivery is no longer in the settings",
        "The hook was removed",
        "The settings no longer contain the hook that received this delivery.",
        ("Configure the hook again, then replay.", "Discard the failure."),
        (_REPLAY, _DISCARD),
    ),
    "internal_error": Reason(
        "a bug in Doorbell",
        "An error in Doorbell",
        "The run ended with an unexpected exception.",
        ("Report it, with the log line unhandled_exception.", "Replay the task when it is fixed."),
        (_REPLAY,),
    ),
    "lock_contention": Reason(
        "another run uses the contact, record or token that this run needs",
        "Another run goes first",
        "Another run uses the same contact, record or token. This one continues within 5 seconds.",
    ),
    "newer_version": Reason(
        "a newer version of Doorbell compressed the body",
        "A newer version stored the delivery",
        "A newer version of Doorbell stored this delivery, and this version cannot read its body.",
        ("Deploy the newer version to all processes, then replay.",),
        (_REPLAY,),
    ),
    "rate_limited_locally": Reason(
        "VISITS_API_RATE allows no call now",
        "The rate limit is reached",
        "VISITS_API_RATE allows no call now. The task continues by itself.",
    ),
    "record_not_found_yet": Reason(
        "the tool does not return the record of the event yet",
        "The tool does not have the record yet",
        "The tool announced the record, but its API does not return it yet. It is fetched again.",
    ),
    "redis_down": Reason(
        "Redis did not answer during the run",
        "Redis did not answer",
        "Redis did not answer during the run. The task runs again.",
    ),
    "repeated_within_a_minute": Reason(
        "the delivery was repeated within a minute",
        "The tool repeats the delivery",
        "The tool sends the same delivery again and again. The task runs once a minute.",
    ),
    "several_people": Reason(
        "the tool uses one id for several people",
        "Several people have one id",
        "The tool uses one id for several people. The first person's visit is up to date; the others have no visit.",
        ("Set up the tool to use one id per person.", "Discard the failure."),
        (_DISCARD,),
        is_final=True,
    ),
    "time_unknown": Reason(
        "no change has a time",
        "No time",
        "The tool never sent a time for this visit, and a visit needs one.",
        ("Make the tool send the event again.", "Discard the failure."),
        (_DISCARD,),
        is_final=True,
    ),
    "token_missing": Reason(
        "the account has no Visits API token",
        "No token for Review Rover",
        "The Review Rover account of this hook has no token in the settings.",
        ("Set the token of the account, then replay.",),
        ("doorbell replay --state parked --reason token_missing --yes",),
    ),
    "token_rejected": _TOKEN_REJECTED,
    "too_many_changes": Reason(
        "one visit has 5,000 changes",
        "Too many changes to one visit",
        "One visit has 5,000 changes: the tool is probably in a loop.",
        ("Find the loop at the tool.", "Replay the task afterwards."),
        (_REPLAY,),
    ),
    "too_many_fetches": Reason(
        "the hook already fetches the maximum number of records at once",
        "Other records go first",
        "The hook already fetches the maximum number of records at once. This one continues within 5 seconds.",
    ),
    "too_many_payments": Reason(
        "one visit has over 500 payments",
        "Too many payments for one visit",
        "One visit has over 500 payments, so its amount cannot be added up.",
        ("Look at the changes of the visit.", "Discard those that were not applied."),
        ("doorbell visit ID", _DISCARD),
        is_final=True,
    ),
    "too_many_reschedules": Reason(
        "one visit has over 200 ids",
        "Too many reschedules of one visit",
        "One visit was rescheduled over 200 times.",
        ("Look at the changes of the visit.", "Discard those that were not applied."),
        ("doorbell visit ID", _DISCARD),
        is_final=True,
    ),
    "untranslatable": Reason(
        "the event lacks a value that a visit needs, or has an unknown value",
        "The event cannot be understood",
        "The event lacks a value that a visit needs, or has an unknown value. The details name the field. "
        "The part that could be translated is applied.",
        ("Make the change in Review Rover by hand.", "Discard the failure afterwards."),
        ("doorbell show ID", _DISCARD),
        is_final=True,
    ),
    "write_in_progress": Reason(
        "the API may still execute a call of the last run",
        "An earlier call may still take effect",
        "The API did not answer a call in time, and may still execute it. The task continues within 5 seconds.",
    ),
}

#: By the status of a failed call.
FAILED_CALLS = {
    "401": _TOKEN_REJECTED,
    "403": _TOKEN_REJECTED,
    "404": Reason(
        "the API has no such address or contact",
        "The API does not know the address",
        "There is no Visits API at VISITS_API_URL, or the contact of this visit was deleted in Review Rover.",
        ("Check VISITS_API_URL, then replay the failure.", "Enter the customer's e-mail address."),
        ("doorbell doctor", _REPLAY, "doorbell replay ID --contact EMAIL --yes"),
    ),
    "429": _RATE_LIMITED,
    "another 4xx": Reason(
        "the API does not accept the values",
        "The values are rejected",
        "The API does not accept the values of this visit or customer. Its response says which.",
        (
            "Correct the values at the tool; the tool then sends the booking again.",
            "Replay the failure if the API now accepts these values.",
            "Discard the failure.",
        ),
        ("doorbell visit ID", _REPLAY, _DISCARD),
    ),
    "5xx, 408, 425 or no response": Reason(
        "the API does not answer, or not in time",
        "The API does not answer",
        "The call is repeated for up to RETRY_FOR_S.",
        ("Replay the task when the API works again.",),
        (_REPLAY,),
    ),
}


def is_rejection(text: str) -> bool:
    """Return whether the reason is that the API does not accept the values."""
    return find_reason(text) is FAILED_CALLS["another 4xx"]


def find_reason(text: str) -> Reason:
    """Return the entry of a task's reason, which may have details, or be a failed call."""
    name, status = text.partition(":")[0], text.rpartition(": ")[2]
    if name in REASONS:
        return REASONS[name]
    if status in FAILED_CALLS:
        return FAILED_CALLS[status]
    is_client_error = len(status) == 3 and status[0] == "4" and status not in ("408", "425")
    return FAILED_CALLS["another 4xx" if is_client_error else "5xx, 408, 425 or no response"]


#: Why an open circuit holds the visits of its account, by its kind. scripts/lib/circuit_reasons.lua has the same.
CIRCUIT_REASONS = {
    "down": "api_down",
    "unauthorized": "token_rejected",
    "rate_limited": "api_rate_limited",
    "paused": "account_paused",
}


def reason_now(stored: str, account_reason: str) -> str:
    """Return the reason of a held visit.

    stored: since it was held, when another cause may have stopped the calls. account_reason: why no visit of its account
    runs now; empty if they may run.
    """
    if not account_reason or find_reason(stored) == find_reason(account_reason):
        return stored  # which may name the call that failed
    return account_reason


#: Reasons of ignored deliveries. Sources have others: names of events, and short phrases.
IGNORED = {
    "record_gone": "the tool has deleted the record",
    "opted_out": "the customer wants no review request",
    "foreign_tenant": "TENANTS does not name the tool's account",
}


def ignored_title(reason: str) -> str:
    """Return why an event was ignored, on arrival or after its record was fetched."""
    return IGNORED.get(reason) or f"it changes no visit ({reason})"
