"""Which items have a state of their own: kept apart, so that an item that has none pays nothing for it."""

from __future__ import annotations

from collections.abc import Callable

from asyncworker.iterate.item import Item, item_here

__all__ = ["item_states", "leave_item_state", "note_item_state", "runs_with_item_states"]

#: What lets go of a running item's state; by the item's identity, with the item, which keeps that its own.
item_states: dict[int, tuple[Item, Callable[[], None]]] = {}
#: Runs of which an item in this process has had a state.
runs_with_item_states: set[str] = set()


def note_item_state(item: Item, state_id: str, leave: Callable[[], None]) -> None:
    """Note that an item has a state."""
    item_states[id(item)] = item, leave
    runs_with_item_states.add(state_id.rpartition("#")[0])


def leave_item_state() -> None:
    """Let go of the state of the item whose attempt ends here."""
    item = item_here()
    if item is not None and id(item) in item_states:
        item_states.pop(id(item))[1]()
