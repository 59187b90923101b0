"""Who may ask: only the page that this server sent.

A page from elsewhere must not be able to read a run through the reader's browser. Two ways are known and both are
shut here: a name that is pointed at 127.0.0.1 (DNS rebinding; the Host header then bears that name) and a request sent
across origins (the Origin header then names the other page). There is no CORS header anywhere. What changes something is
sent by POST, to the few addresses of ACTS, and must name its origin: browsers always do, forms of other pages name theirs.
"""

from __future__ import annotations

import ipaddress
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})

ACTS: Final = frozenset({"/api/lab/tell", "/api/act/label", "/api/act/delete", "/api/act/undo"})  # the addresses that take POST

# No inline script or style, nothing from other hosts, no framing: a logged string that slipped into the page as markup
# would still not run.
POLICY: Final = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
HEADERS: Final = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class Gate:
    """ASGI middleware: checks Host and Origin, lets only reading and the few acts through, adds the security headers."""

    def __init__(self, app: ASGIApp, names: frozenset[str] = LOOPBACK_NAMES, any_address: bool = False) -> None:
        self.app = app
        self.names = names
        self.any_address = any_address  # bound to an outside address: IP addresses as Host are then what people type

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self.refusal(scope)
        await (refusal or self.app)(scope, receive, guarded)

    def refusal(self, scope: Scope) -> Response | None:
        """The answer to a request that may not pass, or None."""
        is_act = scope["method"] == "POST" and scope["path"] in ACTS
        if scope["method"] not in ("GET", "HEAD") and not is_act:
            return _refuse(405, f"This server only reads: {scope['method']} is not answered.")
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self.is_own(host, scope):
            port = _bound_port(scope)
            return _refuse(
                403,
                f"Refused: the request is addressed to {host!r}. Open http://localhost:{port}/ instead; "
                f"through ssh forward the same port: ssh -L {port}:localhost:{port} ...",
            )
        origin = headers.get("origin")
        if origin is None and is_act:
            return _refuse(403, "Refused: the request does not say which page it comes from (no Origin header).")
        if origin is not None and origin.lower() != f"{scope['scheme']}://{host.lower()}":
            return _refuse(403, f"Refused: a page of {origin!r} may not read from this server.")
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and scope["path"].startswith("/api/"):
            return _refuse(403, "Refused: a page of another site may not read from this server.")
        return None

    def is_own(self, host: str, scope: Scope) -> bool:
        """Is this Host header one of ours: an allowed name with the port that we listen on?"""
        try:
            parts = urlsplit(f"//{host}")
            name, port = parts.hostname or "", parts.port or 80
        except ValueError:
            return False
        if parts.username is not None or parts.path or parts.query or parts.fragment:
            return False
        bound = _bound_port(scope)
        if bound is not None and port != bound:
            return False
        return name in self.names or (self.any_address and _is_address(name))


def _bound_port(scope: Scope) -> int | None:
    server = scope.get("server")
    return server[1] if server else None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _refuse(status: int, sentence: str) -> Response:
    return JSONResponse({"error": sentence}, status_code=status)
