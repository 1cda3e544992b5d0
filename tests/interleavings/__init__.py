"""Holders of one thing on a real store, paused, frozen, killed and resumed at every call of store and broker."""
