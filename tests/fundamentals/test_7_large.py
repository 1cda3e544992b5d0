"""A long list does not ride in the message: it lies in a folder, or wherever fsspec can write, until the run begins."""

from pathlib import Path


def test_a_hundred_thousand_items_in_a_message_of_a_kilobyte(app, tasks):
    skus = [f"sku-{number}" for number in range(100_000)]
    fan_out = tasks.print_label.partial().options(results="none").iterate(sku=skus)
    aside = fan_out.clone().kwargs["source"]["columns"][0]["offloaded"]
    assert aside["count"] == 100_000
    # Named by its content, below the state folder where no ASYNCWORKER_PAYLOAD_URL is set.
    file = Path(app.conf.asyncworker_state_dir) / "payloads" / aside["payload"]["name"]
    assert file.stat().st_size == aside["payload"]["size_bytes"]


def test_it_is_there_for_the_worker_and_for_whoever_resumes(tasks):
    result = tasks.only_even.partial().options(results="none").iterate(number=list(range(20_000))).delay()
    assert result.get(timeout=120)["done"] == 10_000
    assert result.resume().get(timeout=120)["resumed"] == 20_000
