"""Things that outlive tasks: made once on a loop, closed in reverse order when it stops."""

from asyncworker.resources.lifetimes import Lifetimes, lifetimes

__all__ = ["Lifetimes", "lifetimes"]
