"""Ids of deliveries."""

import base64
import hashlib

from hypothesis import given
from hypothesis import strategies as st

from app.ledger.ids import new_delivery_id


@given(st.binary(max_size=40))
def test_the_id_of_a_delivery_has_the_digest_of_its_event_in_letters_and_digits(event: bytes) -> None:
    digest = base64.b64encode(hashlib.sha256(b"calendly\0" + event).digest()).decode()[:16]
    id = new_delivery_id("calendly", event, 0)

    assert id.isalnum()
    assert id[12:] == digest.replace("+", "x").replace("/", "y")
