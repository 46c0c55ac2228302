"""Why a task is not done, and what helps.

A reason is a key of REASONS, alone or followed by `: details`, or a failed call (`POST /visits: 422`).
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reason:
    """meaning: as in docs/glossary.md. title, cause, actions: for people who do not know Doorbell's terms.

    actions: what an operator can do, the most helpful first; empty if nothing is to be done.
    """

    meaning: str
    title: str
    cause: str
    actions: tuple[str, ...] = ()


#: docs/glossary.md repeats the meanings, docs/runbook.md has the commands.
REASONS = {
    "body_erased": Reason(
        "the body was erased, with the personal data in it",
        "The delivery was erased",
        "The personal data of a customer was erased, and with it the body of this delivery.",
        ("Discard the failure.", "Make the tool send the event again, if the visit is still needed."),
    ),
    "body_key_unknown": Reason(
        "the key that encrypted the body is not in BODY_KEYS",
        "The delivery cannot be decrypted",
        "The key that encrypted its body was removed from BODY_KEYS.",
        ("Add the key to BODY_KEYS again, then replay.",),
    ),
    "contact_unknown": Reason(
        "no change has an e-mail address or a contact id",
        "No e-mail address",
        "The booking came without an e-mail address, so Review Rover cannot tell whose visit this is.",
        (
            "Replay with the customer's e-mail address or contact id.",
            "Add the address at the tool, which sends the booking again.",
            "Discard the failure: no review request will be sent.",
        ),
    ),
    "crashed_repeatedly": Reason(
        "the worker died during five runs in a row",
        "The worker crashed five times",
        "Each run of this task ended with the death of its worker.",
        ("Find the cause in the worker's log.", "Replay the task when the cause is fixed."),
    ),
    "credentials_missing": Reason(
        "a setting with a credential of the tool is missing",
        "A credential is missing",
        "The tool sends only an id, and Doorbell lacks the credential to fetch the record.",
        ("Set the credential that the details name, then replay.",),
    ),
    "credentials_rejected": Reason(
        "the tool rejects the credentials of the hook",
        "The tool rejects the credentials",
        "The token or password for the tool's API expired, was revoked, or lacks a permission.",
        ("Set new credentials of the tool, then replay.",),
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
    ),
    "hook_not_configured": Reason(
        "the hook of the delivery is no longer in the settings",
        "The hook was removed",
        "The settings no longer have the hook that received this delivery.",
        ("Configure the hook again, then replay.", "Discard the failure."),
    ),
    "internal_error": Reason(
        "a defect of Doorbell",
        "An error in Doorbell",
        "The run ended with an unexpected exception.",
        ("Report it, with the log line unhandled_exception.", "Replay the task when it is fixed."),
    ),
    "lock_contention": Reason(
        "another run uses the contact, record or token that this run needs",
        "Another run goes first",
        "Another run uses the same contact, record or token. This one continues within 5 seconds.",
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
        "The tool uses one id for several people. The visit of the first is up to date, the others have none.",
        ("Set up the tool to use one id per person.", "Discard the failure."),
    ),
    "time_unknown": Reason(
        "no change has a time",
        "No time",
        "The tool never sent a time for this visit, and a visit needs one.",
        ("Make the tool send the event again.", "Discard the failure."),
    ),
    "token_missing": Reason(
        "the account has no Visits API token",
        "No token for Review Rover",
        "The Review Rover account of this hook has no token in the settings.",
        ("Set the token of the account, then replay.",),
    ),
    "too_many_changes": Reason(
        "one visit has 5,000 changes",
        "Too many changes of one visit",
        "One visit has 5,000 changes: the tool is probably in a loop.",
        ("Find the loop at the tool.", "Replay the task afterwards."),
    ),
    "too_many_fetches": Reason(
        "the hook already fetches as many records as it may at once",
        "Other records go first",
        "The hook already fetches as many records as it may at once. This one continues within 5 seconds.",
    ),
    "too_many_payments": Reason(
        "one visit has over 500 payments",
        "Too many payments of one visit",
        "One visit has over 500 payments, so its amount cannot be added up.",
        ("Look at the changes of the visit.", "Discard those that were not applied."),
    ),
    "too_many_reschedules": Reason(
        "one visit has over 200 ids",
        "Too many reschedules of one visit",
        "One visit was rescheduled over 200 times.",
        ("Look at the changes of the visit.", "Discard those that were not applied."),
    ),
    "untranslatable": Reason(
        "the event lacks a value that a visit needs, or has an unknown value",
        "The event cannot be understood",
        "The event lacks a value that a visit needs, or has an unknown value. The details name its place.",
        ("Make the change in Review Rover by hand.", "Discard the failure afterwards."),
    ),
}

_RETRIED = "The call is repeated for up to RETRY_FOR_S."
#: By status or kind of a failed call.
_FAILED_CALLS = {
    "401": Reason(
        "",
        "The token is rejected",
        "The API does not accept the token, or it lacks a permission.",
        ("Set a valid token.",),
    ),
    "403": Reason(
        "",
        "The token is rejected",
        "The API does not accept the token, or it lacks a permission.",
        ("Set a valid token.",),
    ),
    "404": Reason(
        "",
        "The API does not know the address",
        "There is no Visits API at VISITS_API_URL, or the contact of this visit was deleted in Review Rover.",
        ("Check the address with `doorbell doctor`, then replay the failure.", "Enter the customer's e-mail address."),
    ),
    "429": Reason("", "The API limits the rate", "Doorbell waits for as long as the API demands, then continues."),
    "4xx": Reason(
        "",
        "The values are rejected",
        "The API does not accept the values of this visit or customer. Its response says which.",
        ("Correct the values at the tool, which sends the booking again.", "Discard the failure."),
    ),
    "other": Reason("", "The API does not answer", _RETRIED, ("Replay the task when the API works again.",)),
}


def find_reason(text: str) -> Reason:
    """Return the entry of a task's reason, which may have details, or be a failed call."""
    name, status = text.partition(":")[0], text.rpartition(": ")[2]
    if name in REASONS:
        return REASONS[name]
    is_client_error = len(status) == 3 and status[0] == "4" and status not in ("408", "425")
    return _FAILED_CALLS.get(status) or _FAILED_CALLS["4xx" if is_client_error else "other"]
