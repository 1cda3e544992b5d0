"""Effect of Celery's own worker settings and options under our pool: none is ignored silently."""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from typing import Any

import click
from celery.app.defaults import DEFAULTS

from asyncworker.errors import SettingsError
from asyncworker.worker.defaults import own_value
from asyncworker.worker.option_values import check_values

__all__ = ["FLAGS", "SETTINGS", "Effect", "check_flags", "ignored_settings"]


class Effect(enum.Enum):
    """Effect of one setting."""

    #: The same as under prefork.
    SAME = "same"
    #: Holds in any case: it asks for what our worker always does.
    HOLDS = "holds"
    #: With ``--processes`` it is what ours of another name is; without, it has no effect.
    PROCESSES = "processes"
    #: None: it is about prefork's processes.
    NONE = "none"


_REPLACED = {
    "worker_max_tasks_per_child": "--processes N replaces a worker after so many tasks, as does --max-tasks",
    "worker_max_memory_per_child": "--processes N replaces a worker above that, as does --max-memory-mb",
}
_NO_PREFORK = {
    "worker_lost_wait": "tasks share their worker's process",
    "worker_pool_putlocks": "tasks wait for a free slot in any case",
    "worker_pool_restarts": "start the worker with --processes N, which replaces those that end",
    "worker_proc_alive_timeout": "a supervisor waits for its workers as long as they take, see --processes",
}


def _effects(names: str, effect: Effect) -> dict[str, Effect]:
    return dict.fromkeys(names.split(), effect)


#: Every ``worker_*`` and ``task_*`` setting that Celery has.
SETTINGS: Mapping[str, Effect] = {
    **_effects(
        "worker_agent worker_autoscaler worker_cancel_long_running_tasks_on_connection_loss worker_concurrency "
        "worker_consumer worker_deduplicate_successful_tasks worker_detect_quorum_queues worker_direct "
        "worker_disable_rate_limits worker_enable_prefetch_count_reduction worker_enable_remote_control "
        "worker_enable_soft_shutdown_on_idle worker_eta_task_limit worker_hijack_root_logger worker_log_color "
        "worker_log_format worker_pool worker_prefetch_multiplier worker_redirect_stdouts "
        "worker_redirect_stdouts_level worker_send_task_events worker_soft_shutdown_timeout worker_state_db "
        "worker_task_log_format worker_timer worker_timer_precision",
        Effect.SAME,
    ),
    **_effects(
        "task_acks_late task_acks_on_failure_or_timeout task_allow_error_cb_on_chord_header task_always_eager "
        "task_annotations task_compression task_create_missing_queue_exchange_type task_create_missing_queue_type "
        "task_create_missing_queues task_default_delivery_mode task_default_exchange task_default_exchange_type "
        "task_default_priority task_default_queue task_default_queue_type task_default_rate_limit "
        "task_default_routing_key task_eager_propagates task_ignore_result task_inherit_parent_priority task_protocol "
        "task_publish_retry task_publish_retry_policy task_queue_max_priority task_queues task_reject_on_worker_lost "
        "task_remote_tracebacks task_routes task_send_sent_event task_serializer task_soft_time_limit "
        "task_store_eager_result task_store_errors_even_if_ignored task_time_limit task_track_started",
        Effect.SAME,
    ),
    "worker_disable_prefetch": Effect.HOLDS,
    **dict.fromkeys(_REPLACED, Effect.PROCESSES),
    **dict.fromkeys(_NO_PREFORK, Effect.NONE),
}

#: Every option of ``celery worker``, by the name under which click passes it on.
FLAGS: Mapping[str, Effect] = {
    **_effects(
        "autoscale beat concurrency detach exclude_queues executable gid heartbeat_interval hostname include logfile "
        "loglevel pidfile pool prefetch_multiplier purge queues schedule_filename scheduler soft_time_limit statedb "
        "task_events time_limit uid umask without_gossip without_heartbeat without_mingle",
        Effect.SAME,
    ),
    # -O fair: a task goes to a free slot only.
    **_effects("disable_prefetch optimization", Effect.HOLDS),
    **_effects("max_tasks_per_child max_memory_per_child", Effect.PROCESSES),
}


def check_flags(options: Mapping[str, Any], *, is_ours: bool) -> None:
    """Refuse options of the worker command that would have no effect.

    Args:
        options: Those of the command.
        is_ours: The worker has our pool.

    Raises:
        SettingsError: Names the option, and what to say instead.
    """
    if not is_ours:
        if options.get("processes"):
            raise SettingsError("--processes is for asyncworker's own pool; leave out -P, and worker_pool")
        return
    context = click.get_current_context(silent=True)
    if (
        context is not None
        and "pool" in context.params
        and context.get_parameter_source("pool") is not click.core.ParameterSource.DEFAULT
        and not os.environ.get("CELERY_CUSTOM_WORKER_POOL")
    ):
        raise SettingsError(
            "-P prefork means, to Celery, the pool of the app's configuration, which is asyncworker's: leave it out, "
            "or say -P processes, which is prefork"
        )
    concurrency = options.get("concurrency")
    if isinstance(concurrency, int) and concurrency < 1:
        raise SettingsError(f"--concurrency (worker_concurrency) is {concurrency}: expected 1 or more")
    # Again, for what comes from the configuration, where 0 has a meaning, or from a program that embeds a worker.
    check_values({name: value for name, value in options.items() if value != 0})
    if options.get("processes") or options.get("supervised") is not None:
        return
    for name, ours in (("max_tasks_per_child", "--max-tasks"), ("max_memory_per_child", "--max-memory-mb")):
        if options.get(name) is not None:
            flag = f"--{name.replace('_', '-')}"
            raise SettingsError(f"{flag} needs --processes, as {ours} does: somebody must start the next worker")


def ignored_settings(conf: Any, *, supervised: bool) -> list[str]:
    """Return a line for each of Celery's settings that the app has set and that has no effect in this worker."""
    lines = []
    for name, effect in SETTINGS.items():
        if effect in (Effect.SAME, Effect.HOLDS) or (effect is Effect.PROCESSES and supervised):
            continue
        value = own_value(conf, name)
        if value is not None and value != DEFAULTS[name]:
            advice = (_REPLACED | _NO_PREFORK)[name]
            lines.append(f"{name} = {value!r} has no effect with asyncworker's pool: {advice}")
    return lines
