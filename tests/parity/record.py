"""From what one side has seen to lines that can be compared: by scenario, by task, in order where order is meant.

What is compared within a task and an attempt: the order of the signals of the pool, of the signals of the main
process, of the hooks, of the body's notes, of the request's callbacks, of the events. Between tasks, and between
those streams, processes race each other, and no order is promised by anyone. A task and what replaces it, under the
same id, are two tasks: the second may begin before the first has told how it ended.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import Any

__all__ = ["lines_by_scenario"]

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_ADDRESS = re.compile(r"0x[0-9a-f]{6,}")
_ORIGIN = re.compile(r"gen\d+@\S+?(?=['\"])")
_PID = re.compile(r"\bpid=\d+|\b\d{8,}\b")

#: Fields of an event that differ from run to run, and those that say what the others say.
_NOT_COMPARED = {
    *("hostname", "timestamp", "pid", "clock", "utcoffset", "local_received", "runtime", "traceback", "uuid"),
    *("eta", "expires", "root_id", "parent_id"),
}

#: Where Celery itself throws dice: scenario, what it decides, what stands for it.
_CHANCE = [
    ("autoretry: jitter", r"eta=(True|False)", "eta=<by chance>"),
    ("autoretry: jitter", r"(OddError\(0, 'again'\)), [01]\)", r"\1, <by chance>)"),
]

#: An attempt has one of each. They do not say which attempt it was, and the next one may begin before the main process
#: has told how the one before has ended.
_EACH_ATTEMPT = ("task-started", "task-retried")

#: Streams that say which task they tell of, and the field that holds its name.
_BY_NAME = {"signals": "sender", "hooks": "task"}

#: Events that several processes send about one task, each when it comes to it: a stream of its own, in no order.
_ARRIVALS = {"task-sent", "task-received"}


def lines_by_scenario(seen: dict[str, Any]) -> dict[str, list[str]]:
    """Return the sorted lines of each scenario."""
    streams: dict[str, dict[tuple[str, str], list[str]]] = {name: defaultdict(list) for name in seen["scenarios"]}
    for record in seen["log"]:
        stream = record["stream"]
        if stream in _BY_NAME:
            stream = f"{stream} {record['fields'][_BY_NAME[stream]]}"
        _add(streams, stream, record["id"], record["root"], record["attempt"], _told(record))
    roots = {each["uuid"]: each["root_id"] for each in seen["events"] if each.get("root_id")}
    for event in seen["events"]:
        if event["type"].startswith("task-"):
            stream = event["type"] if event["type"] in _ARRIVALS else "events"
            _add(streams, stream, event["uuid"], roots.get(event["uuid"]), event.get("retries"), _told_event(event))
    found = {}
    for name, of_scenario in seen["scenarios"].items():
        lines = [f"fact | {key} = {value!r}" for key, value in sorted(of_scenario["facts"].items())]
        for short, result in of_scenario["results"].items():
            # The parent of a chord's body is whichever of its members ended last.
            racing = {"parent_id"} if "chord" in name or "group" in name else set()
            lines += [
                f"result {short} | {key} = {value!r}" for key, value in sorted(result.items()) if key not in racing
            ]
        lines += _flattened(streams[name])
        lines = [_stable(line.replace(f"{name}/", ""), name) for line in lines]
        # By stream; within one, the order in which it happened.
        found[name] = sorted(lines, key=lambda line: line.partition(" | ")[0])
    return found


def _add(streams: Any, stream: str, task_id: str | None, root: str | None, attempt: int | None, text: str) -> None:
    scenario = next((each.partition("/")[0] for each in (root, task_id) if each and "/" in each), None)
    if scenario in streams:
        number = "" if attempt is None else f"#{attempt}"
        streams[scenario][(stream, f"{task_id}{number}")].append(text)


def _flattened(streams: dict[tuple[str, str], list[str]]) -> list[str]:
    """Return the lines of all streams. Tasks whose ids were made by chance are told apart by what they do."""
    lines = []
    by_chance: dict[str, list[list[str]]] = defaultdict(list)
    for (stream, task), texts in streams.items():
        if stream in _ARRIVALS:
            texts.sort()
        elif stream == "events":
            texts = _by_attempt(texts)
        if _UUID.match(task):
            by_chance[stream].append(texts)
        else:
            lines += [f"{stream} {task} | {text}" for text in texts]
    for stream, blocks in by_chance.items():
        for count, texts in enumerate(sorted(blocks, key=lambda block: [_stable(text) for text in block])):
            lines += [f"{stream} <{count}> | {text}" for text in texts]
    return lines


def _by_attempt(texts: list[str]) -> list[str]:
    """Sort the events of one task by attempt, and only so."""
    seen: Counter[str] = Counter()
    attempts = []
    for text in texts:
        kind = text.partition(" ")[0]
        seen[kind] += 1
        attempts.append(seen[kind] if kind in _EACH_ATTEMPT else len(texts))
    return [text for _, text in sorted(zip(attempts, texts, strict=True), key=lambda pair: pair[0])]


def _told(record: dict[str, Any]) -> str:
    return " ".join([record["what"], *(f"{key}={value}" for key, value in record["fields"].items())])


def _told_event(event: dict[str, Any]) -> str:
    fields = {key: value for key, value in event.items() if key not in _NOT_COMPARED | {"type"}}
    fields |= {key: bool(event[key]) for key in ("eta", "expires") if key in event}
    return " ".join([event["type"], *(f"{key}={fields[key]}" for key in sorted(fields))])


def _stable(text: str, scenario: str = "") -> str:
    """Take out of a line what differs in every run."""
    for of_scenario, pattern, stands_for in _CHANCE:
        if scenario == of_scenario:
            text = re.sub(pattern, stands_for, text)
    for pattern, stands_for in ((_UUID, "<id>"), (_ADDRESS, "<at>"), (_ORIGIN, "<origin>"), (_PID, "<number>")):
        text = pattern.sub(stands_for, text)
    return text
