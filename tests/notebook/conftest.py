"""The made-up runs of the server's tests."""

from tests.server.conftest import folder, made_once

__all__ = ["folder", "made_once"]
