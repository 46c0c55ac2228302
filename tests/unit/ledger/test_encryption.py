"""Encrypted values in Redis: the format, rotation of keys, and what is rejected."""

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.ledger.encryption import Keyring, TamperedValue, UnknownKey, derive_key
from tests.support.cases import each

PLACE = "bell:token:square"


def test_a_value_is_aes_256_gcm_with_a_key_derived_by_hmac_sha256() -> None:
    encrypted = Keyring(["secret"], "doorbell.token").encrypt(b"value", PLACE)

    key = hmac.new(b"secret", b"doorbell.token", hashlib.sha256).digest()
    key_id = hmac.new(b"secret", b"doorbell.token.name", hashlib.sha256).digest()[:4]
    assert b"\x01" + key_id == encrypted[:5]
    assert b"value" == AESGCM(key).decrypt(encrypted[5:17], encrypted[17:], PLACE.encode())


def test_a_value_is_encrypted_differently_each_time() -> None:
    keyring = Keyring(["secret"], "doorbell.token")

    assert keyring.encrypt(b"value", PLACE) != keyring.encrypt(b"value", PLACE)


def test_an_older_key_decrypts_and_the_newest_encrypts() -> None:
    before, after = Keyring(["old"], "doorbell.token"), Keyring(["new", "old"], "doorbell.token")

    assert b"value" == after.decrypt(before.encrypt(b"value", PLACE), PLACE)
    with pytest.raises(UnknownKey, match=after.key_ids[0]):
        before.decrypt(after.encrypt(b"value", PLACE), PLACE)


def test_a_removed_key_is_named_by_its_id() -> None:
    encrypted = Keyring(["old"], "doorbell.token").encrypt(b"value", PLACE)

    with pytest.raises(UnknownKey, match=encrypted[1:5].hex()):
        Keyring(["new"], "doorbell.token").decrypt(encrypted, PLACE)


@each("length", range(17, 38))
def test_a_value_with_a_changed_bit_or_a_lost_end_is_rejected(length: int) -> None:
    keyring = Keyring(["secret"], "doorbell.token")
    encrypted = keyring.encrypt(b"value", PLACE)

    for wrong in (encrypted[:length], encrypted[:-1] + bytes([encrypted[-1] ^ 1])):
        with pytest.raises(TamperedValue):
            keyring.decrypt(wrong, PLACE)


def test_a_value_of_another_place_is_rejected() -> None:
    keyring = Keyring(["secret"], "doorbell.token")

    with pytest.raises(TamperedValue):
        keyring.decrypt(keyring.encrypt(b"value", "bell:token:acuity"), PLACE)


def test_keys_of_two_purposes_differ() -> None:
    assert derive_key("secret", "doorbell.token") != derive_key("secret", "doorbell.body")
    assert Keyring(["secret"], "doorbell.token").key_ids != Keyring(["secret"], "doorbell.body").key_ids
