"""Webhooks as data: delivery, signature, payload, event, source. Pure, except specimens.py: no clock, no I/O.

Sources import these names from here.
"""

from app.webhooks.delivery import Event
from app.webhooks.fetching import (
    Api,
    ApiKeyAuth,
    BasicAuth,
    BearerAuth,
    RecordRequest,
    RequestAuth,
    TokenExchange,
    iso_milliseconds,
    refresh_token_exchange,
)
from app.webhooks.handshakes import EchoField, EchoQuery, FixedBody, SignField
from app.webhooks.payload import THREE_DECIMAL_CURRENCIES, Payload, Untranslatable, minor_units
from app.webhooks.people import NO_ATTENDEE_ID, attendee_key, phone_answer, split_name
from app.webhooks.signatures.combined import AllOf, FieldsHmac, FirstPresent
from app.webhooks.signatures.hmac import Hmac, StandardWebhooks, base64_key, standard_webhooks_key, text_key
from app.webhooks.signatures.jwt import Jwt
from app.webhooks.signatures.public_key import PublicKey
from app.webhooks.signatures.scheme import (
    ISO_8601,
    MIN_CHOSEN_SECRET_BYTES,
    SECONDS_AFTER_LAST_COLON,
    UNIX_MILLISECONDS,
)
from app.webhooks.signatures.token import HeaderToken, PathToken
from app.webhooks.source import RECORD_GONE, Ignored, PartlyTranslatable, Source, graphql_record
from app.webhooks.subscription import (
    ApiResponse,
    ListedPage,
    ListedRecord,
    Listing,
    ListRequest,
    OAuth,
    Refused,
    Subscription,
    SubscriptionPage,
    SubscriptionState,
    Target,
    Window,
    read_records,
)

__all__ = [
    "ISO_8601",
    "MIN_CHOSEN_SECRET_BYTES",
    "NO_ATTENDEE_ID",
    "RECORD_GONE",
    "SECONDS_AFTER_LAST_COLON",
    "THREE_DECIMAL_CURRENCIES",
    "UNIX_MILLISECONDS",
    "AllOf",
    "Api",
    "ApiKeyAuth",
    "ApiResponse",
    "BasicAuth",
    "BearerAuth",
    "EchoField",
    "EchoQuery",
    "Event",
    "FieldsHmac",
    "FirstPresent",
    "FixedBody",
    "HeaderToken",
    "Hmac",
    "Ignored",
    "Jwt",
    "ListRequest",
    "ListedPage",
    "ListedRecord",
    "Listing",
    "OAuth",
    "PartlyTranslatable",
    "PathToken",
    "Payload",
    "PublicKey",
    "RecordRequest",
    "Refused",
    "RequestAuth",
    "SignField",
    "Source",
    "StandardWebhooks",
    "Subscription",
    "SubscriptionPage",
    "SubscriptionState",
    "Target",
    "TokenExchange",
    "Untranslatable",
    "Window",
    "attendee_key",
    "base64_key",
    "graphql_record",
    "iso_milliseconds",
    "minor_units",
    "phone_answer",
    "read_records",
    "refresh_token_exchange",
    "split_name",
    "standard_webhooks_key",
    "text_key",
]
