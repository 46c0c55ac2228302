"""How long a delivery is recognized as a repeat."""

import re

from app.ledger.records import DEDUP_TTL_S
from app.ledger.scripts import SOURCES
from app.settings.model import Settings


def test_the_script_and_the_ledger_agree_on_the_time() -> None:
    [ms] = re.findall(r"REPEAT_MS = ([0-9 *]+)", SOURCES["accept"])
    days, ms_per_day = map(int, ms.split("*"))

    assert DEDUP_TTL_S * 1000 == days * ms_per_day


def test_a_delivery_is_stored_for_longer() -> None:
    [at_least] = [rule.ge for rule in Settings.model_fields["retention_days"].metadata if hasattr(rule, "ge")]

    assert at_least * 86_400 > DEDUP_TTL_S
