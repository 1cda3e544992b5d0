"""Async tasks, fan-outs, and what a client holds of them."""
