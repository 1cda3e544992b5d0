"""The one task that runs a fan-out."""
