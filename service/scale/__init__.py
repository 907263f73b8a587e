"""Models on many workers, behind the same front door."""
