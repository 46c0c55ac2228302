"""How reliable the facts about a tool are."""

from collections.abc import Mapping
from typing import Literal

#: The weakest evidence for the facts in a source.
Evidence = Literal["vendor", "second-hand", "none"]
#: Completes "Verified by …", for people who decide whether to rely on a source.
VERIFIED_BY: Mapping[Evidence, str] = {
    "vendor": "the vendor's documentation",
    "second-hand": "integrators' code and recorded payloads",
    "none": "nobody; the facts are from memory",
}
