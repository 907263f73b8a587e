"""Who may do what: callers, tokens and their scopes, certificates, shares of the server, the audit log."""

from __future__ import annotations

from .callers import Caller, current_caller, current_request_id

__all__ = ["Caller", "current_caller", "current_request_id"]
