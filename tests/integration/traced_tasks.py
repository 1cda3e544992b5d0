"""An app whose worker is watched by OpenTelemetry or by Sentry, as their manuals say; what they see goes to a file."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from celery import Celery
from celery.signals import worker_init

import asyncworker

app = asyncworker.install(Celery("traced"))

#: One JSON document a line.
SEEN = Path(os.environ.get("TRACED_FILE", os.devnull))


def write(document: dict[str, Any]) -> None:
    with SEEN.open("a", buffering=1) as file:
        file.write(json.dumps(document, default=str) + "\n")


def with_opentelemetry() -> None:
    from opentelemetry.instrumentation.celery import CeleryInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
    from opentelemetry.trace import set_tracer_provider

    def line(span: Any) -> str:
        return json.dumps(json.loads(span.to_json()) | {"start_ns": span.start_time, "end_ns": span.end_time}) + "\n"

    provider = TracerProvider()
    output = SEEN.open("a", buffering=1)
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=output, formatter=line)))
    set_tracer_provider(provider)
    CeleryInstrumentor().instrument(tracer_provider=provider)


def with_sentry() -> None:
    import sentry_sdk
    from sentry_sdk.integrations.celery import CeleryIntegration
    from sentry_sdk.transport import Transport

    class ToFile(Transport):
        def capture_envelope(self, envelope: Any) -> None:
            for item in envelope.items:
                if item.payload.json is not None:
                    write(item.payload.json)

    sentry_sdk.init(
        dsn="http://key@127.0.0.1:1/1", transport=ToFile, integrations=[CeleryIntegration()], traces_sample_rate=1.0
    )


@worker_init.connect(weak=False)
def watch(**_: Any) -> None:
    {"otel": with_opentelemetry, "sentry": with_sentry}[os.environ["TRACED_BY"]]()


@app.task(name="traced.sleep")
async def sleep(number: int, seconds: float) -> int:
    """Sleep inside a span of its own, where spans are made."""
    if os.environ["TRACED_BY"] == "otel":
        from opentelemetry import trace

        with trace.get_tracer("tests").start_as_current_span(f"inside {number}"):
            await asyncio.sleep(seconds)
    else:
        import sentry_sdk

        with sentry_sdk.start_span(op="test", name=f"inside {number}"):
            await asyncio.sleep(seconds)
    return number


@app.task(name="traced.fail")
async def fail(number: int) -> None:
    await asyncio.sleep(0.01)
    raise ValueError(f"number {number}")
