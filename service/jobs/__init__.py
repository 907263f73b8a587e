"""Long work on the server: jobs that outlive the calls that ask for them, and the server's restarts."""

from __future__ import annotations

from .queue import JobQueue
from .records import Job, State
from .runner import JobRunner
from .store import JobStore

__all__ = ["Job", "JobQueue", "JobRunner", "JobStore", "State"]
