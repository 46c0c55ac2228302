"""Why a task is not done.

A reason is a key of REASONS, alone or followed by `: details`, or a failed call (`POST /visits: 422`).
"""

#: Reason and meaning. docs/glossary.md repeats this table, docs/runbook.md says what to do.
REASONS = {
    "body_erased": "the body was erased, with the personal data in it",
    "body_key_unknown": "the key that encrypted the body is not in BODY_KEYS",
    "contact_unknown": "no change has an e-mail address or a contact id",
    "crashed_repeatedly": "the worker died during five runs in a row",
    "credentials_missing": "a setting with a credential of the tool is missing",
    "credentials_rejected": "the tool rejects the credentials of the hook",
    "deadline_passed": "the run had no time left for another call",
    "delivery_expired": "the delivery expired before it was translated",
    "hook_not_configured": "the hook of the delivery is no longer in the settings",
    "internal_error": "a defect of Doorbell",
    "lock_contention": "another run uses the contact, record or token that this run needs",
    "rate_limited_locally": "VISITS_API_RATE allows no call now",
    "record_not_found_yet": "the tool does not return the record of the event yet",
    "redis_down": "Redis did not answer during the run",
    "repeated_within_a_minute": "the delivery was repeated within a minute",
    "several_people": "the tool uses one id for several people",
    "time_unknown": "no change has a time",
    "token_missing": "the account has no Visits API token",
    "too_many_changes": "one visit has 5,000 changes",
    "too_many_fetches": "the hook already fetches as many records as it may at once",
    "too_many_payments": "one visit has over 500 payments",
    "too_many_reschedules": "one visit has over 200 ids",
    "untranslatable": "the event lacks a value that a visit needs, or has an unknown value",
}
