"""The chat page at `/`: one file that loads nothing else and shows all text as plain text."""

import base64
import hashlib
import re
from importlib import resources

from starlette.responses import Response

_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


class ChatPage:
    """The page with the headers that bind the browser to it.

    The Content-Security-Policy names the hashes of the page's own script and style, so that the
    browser runs no other, and it forbids every API that would read text as HTML (Trusted Types).
    https://www.w3.org/TR/CSP3/
    """

    def __init__(self) -> None:
        self._html = resources.files(__package__).joinpath("chat.html").read_text(encoding="utf-8")
        self._headers = {
            "content-security-policy": _policy(self._html),
            "cache-control": "no-cache",
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
        }

    async def answer(self) -> Response:
        """Answer `GET /`."""
        return Response(self._html, media_type="text/html", headers=self._headers)


def _policy(html: str) -> str:
    """Return the Content-Security-Policy of a page with one inline script and one inline style."""
    hashes = {kind: _hash(text) for kind, text in _INLINE.findall(html)}
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {hashes['script']}",
            f"style-src {hashes['style']}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ]
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
