"""Chaos with a history: what every worker has executed, written down past broker and backend, and a checker of it."""
