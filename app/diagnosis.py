"""Why somebody was not let in: the likely cause of a refusal."""

import re

from app.explain import span

#: Reason, by its beginning, to likely cause; {} is how far the signed time was off.
CAUSES = {
    "signature_missing": "The tool signs nothing, or something on the way drops the header.",
    "signature_stale": "The clocks are {} apart, or the request was held up or sent again on the way. Synchronise ours.",
    "signature_mismatch": "Another secret than the tool's is set here (an old one, or another hook's), or the body was "
    "changed on the way. Compare the fingerprints under Sources.",
    "signature_": "The header is not what this tool sends: another sender, or something on the way rewrites it.",
    "no_such_hook": "Somebody rings at an address that is none: a mistyped name, or a hook without a secret.",
    "too_large": "The body is larger than MAX_BODY.",
    "wrong_content_type": "It is no webhook of this tool: check the content type that is set there.",
    "unreadable_body": "The signature holds, but the body cannot be read: check which format is set there.",
    "method_not_allowed": "Somebody opened the address in a browser, or the tool is set to another method than POST.",
    "redis_down": "Our own trouble: Redis could not take it. The tool comes back by itself.",
    "too_busy": "Our own trouble: more at once than can be written. The tool comes back by itself.",
    "too_slow": "The sender did not finish sending.",
    "unfinished": "The sender left before its body was complete.",
}
_SECONDS = re.compile(r"(\d+) s (old|ahead|in the future)?")


def likely_cause(reason: str, detail: str) -> str:
    fitting = [beginning for beginning in CAUSES if reason.startswith(beginning)]
    told = _SECONDS.search(detail)
    apart = span(float(told[1])) if told else "too far"
    return CAUSES[max(fitting, key=len)].replace("{}", apart) if fitting else "–"
