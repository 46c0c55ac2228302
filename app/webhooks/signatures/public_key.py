"""Signatures that are verified with a public key.

The hook's secret is the key: base64 without the lines BEGIN and END, as the settings extract it from a PEM file. For
signing, the secret is the private key.
"""

import base64
from dataclasses import dataclass
from typing import Literal

from app.webhooks.delivery import Delivery
from app.webhooks.signatures.scheme import Scheme, SignatureError, VerificationContext, mismatch, single_header


@dataclass(frozen=True)
class PublicKey(Scheme):
    """A header with a signature of the raw body in base64. placeholder_values: texts that mean "no signature"."""

    header: str
    algorithm: Literal["ed25519", "rsa-sha256"]
    placeholder_values: tuple[str, ...] = ("N/A",)

    def applies_to(self, delivery: Delivery) -> bool:
        lines = [line.strip() for line in delivery.header_values(self.header)]
        return any(line and line not in [text.encode() for text in self.placeholder_values] for line in lines)

    def secret_problem(self, secret: str) -> str | None:
        from app.webhooks.signatures.asymmetric import key_problem

        return key_problem(self.algorithm, secret)

    def verify(self, delivery: Delivery, context: VerificationContext) -> int:
        value = single_header(delivery, self.header)
        if not self.applies_to(delivery):
            raise SignatureError(f"{self.header} is missing", "missing")
        try:
            signature = base64.b64decode(value, validate=True)
        except ValueError:
            raise SignatureError(f"{self.header} is not base64", "malformed") from None
        if base64.b64encode(signature) != value:
            raise SignatureError(f"{self.header} is not canonical base64", "malformed")
        from app.webhooks.signatures.asymmetric import is_signed

        for slot, secret in enumerate(context.secrets):
            if is_signed(self.algorithm, secret, signature, delivery.body):
                return slot
        raise mismatch(self.header, len(context.secrets), "key")

    def sign(self, delivery: Delivery, context: VerificationContext) -> dict[str, str]:
        from app.webhooks.signatures.asymmetric import sign

        signature = sign(self.algorithm, context.secrets[0], delivery.body)
        return {self.header: base64.b64encode(signature).decode()}
