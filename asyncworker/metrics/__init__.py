"""Export of counters: pushed to statsd once a second, served to Prometheus on request.

Files: names (every metric, its unit and meaning), standing (gauges of this worker, its limits and pools), statsd,
prometheus, running (what a worker starts and stops).
"""

from asyncworker.metrics.running import check_metrics, leave_page, start_metrics, stop_metrics

__all__ = ["check_metrics", "leave_page", "start_metrics", "stop_metrics"]
