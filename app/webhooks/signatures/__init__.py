"""Signature schemes as data: what is signed, with which key, and where the result is."""
