"""URLs as they may stand in errors, logs and answers: without what only their owner may know."""

from __future__ import annotations

import re

__all__ = ["redacted"]

_SECRET = re.compile(r"pass|pwd|secret|token|key|credential|signature|auth|sig\b", re.IGNORECASE)


def redacted(url: str) -> str:
    """Return a URL without its password and the secrets of its query; it need not be a URL that can be parsed."""
    if ";" in url and url.count("://") > 1:  # several brokers to fall back on
        return ";".join(redacted(part) for part in url.split(";"))
    scheme, colon, rest = url.rpartition("://") if url.count("://") == 1 else ("", "", url)
    before, question, query = rest.partition("?")
    if "@" in query:  # the end of a password that is not encoded, or the secret of a parameter
        before, question, query = rest, "", ""
    if "@" in before:
        login, _, host = before.rpartition("@")
        user = login.partition(":")[0].rpartition("/")[2] if colon else ""
        # Without a scheme it is not known where the name begins.
        before = f"{user}:***@{host}" if ":" in login else before
    shown = [_shown(part) for part in query.split("&")]
    return f"{scheme}{colon}{before}{question}{'&'.join(shown)}"


def _shown(parameter: str) -> str:
    name, equals, _ = parameter.partition("=")
    return f"{name}=***" if equals and _SECRET.search(name) else parameter
