"""Signature schemes as data: the signed message, the key, and the place of the signature."""
