"""The words in a source: the constants of its module, and the hosts in its files.

They are public, so they are never personal data.
"""

import ast
import hashlib
import json
import re
from functools import cache
from pathlib import Path

from app.webhooks.registry import FOLDER, load_specimens, specimens_file

_HOST = re.compile(r"https?://([A-Za-z0-9.-]+)")
_TOKEN = re.compile(r"\w+")
MAX_WORD_CHARS = 60


@cache
def _texts_of(source: str) -> frozenset[str]:
    """Return the texts in the code of a source, without docstrings and SETUP, which have several lines.

    The words of the questions that ask for a phone number are in people.py, for all sources.
    """
    modules = FOLDER / f"{source}.py", Path(__file__).with_name("people.py")
    nodes = (node for module in modules for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))))
    texts = (node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return frozenset(text for text in texts if text and "\n" not in text)


@cache
def constants_of(source: str) -> frozenset[str]:
    """Return the short texts in the code of a source, such as `"invitee.created"`."""
    return frozenset(text for text in _texts_of(source) if len(text) <= MAX_WORD_CHARS)


@cache
def tokens_of(source: str) -> frozenset[str]:
    """Return the words inside the texts of a source, such as the parts of `urn:blvd:Appointment:`."""
    return frozenset(token for text in _texts_of(source) for token in _TOKEN.findall(text))


@cache
def hosts_of(source: str) -> frozenset[str]:
    """Return the hosts of the URLs in the module and its specimens."""
    module = (FOLDER / f"{source}.py").read_text(encoding="utf-8")
    return frozenset(_HOST.findall(module + json.dumps(load_specimens(source), ensure_ascii=False)))


@cache
def source_version(source: str) -> str:
    """Return a digest of the module and its specimens: it changes when either does."""
    content = b"\n".join(file.read_bytes() for file in (FOLDER / f"{source}.py", specimens_file(source)))
    return hashlib.sha256(content).hexdigest()[:12]
