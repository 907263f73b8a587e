"""Whole questions over all rooms: study files, the demo, and the report."""
