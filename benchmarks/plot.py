"""A benchmark as a picture: one panel a thing that was measured, one bar a competitor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.report import Measured, figure

__all__ = ["plot"]

_OURS, _OTHERS = "#c2410c", "#94a3b8"


def plot(path: Path, panels: Mapping[str, Sequence[Measured]]) -> None:
    """Draw the medians.

    Raises:
        SystemExit: matplotlib is not installed.
    """
    try:
        import matplotlib

        matplotlib.use("agg")
        from matplotlib import pyplot
    except ImportError:
        raise SystemExit("a plot needs matplotlib: pip install -e '.[bench]'") from None
    matplotlib.rcParams.update({"font.size": 8, "svg.fonttype": "none"})
    shown = {
        title: sorted((row for row in rows if row.values), key=lambda row: -row.rank) for title, rows in panels.items()
    }
    heights = [1 + len(rows) for rows in shown.values()]
    picture, axes = pyplot.subplots(
        len(shown), figsize=(8, 0.22 * sum(heights) + 0.5 * len(heights)), height_ratios=heights, squeeze=False
    )
    for axis, (title, rows) in zip(axes[:, 0], shown.items(), strict=True):
        colours = [_OURS if row.name.startswith("asyncworker") else _OTHERS for row in rows]
        bars = axis.barh([row.name for row in rows], [row.median for row in rows], color=colours)
        axis.bar_label(bars, labels=[figure(row.median) for row in rows], padding=3)
        unit = f"{rows[0].unit}{' (less is better)' if rows[0].less_is_better else ''}" if rows else ""
        axis.set_title(f"{title}, {unit}", loc="left", fontsize=9)
        axis.margins(x=0.1)
        axis.xaxis.set_visible(False)
        for side in ("top", "right", "bottom"):
            axis.spines[side].set_visible(False)
    picture.tight_layout()
    picture.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
