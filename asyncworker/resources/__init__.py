"""Things that outlive tasks: made once on a loop, closed in reverse order when it stops."""

from asyncworker.resources.injection import inject, refuse_resources
from asyncworker.resources.lifetimes import Lifetimes, lifetimes
from asyncworker.resources.pool import Pool, is_transport_fault, pools
from asyncworker.resources.resource import Resource, resource, resources_of, use
from asyncworker.resources.scopes import Scope, in_item_scope, in_task_scope, items_are_scopes, scope_is_open
from asyncworker.resources.slots import PoolOptions, Statistics

__all__ = [
    "Lifetimes",
    "Pool",
    "PoolOptions",
    "Resource",
    "Scope",
    "Statistics",
    "in_item_scope",
    "in_task_scope",
    "inject",
    "is_transport_fault",
    "items_are_scopes",
    "lifetimes",
    "pools",
    "refuse_resources",
    "resource",
    "resources_of",
    "scope_is_open",
    "use",
]
