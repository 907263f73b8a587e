"""Whole questions on public recordings, one command each; every one prints a JSON object last."""
