"""The charts of the report: scores by region, retrieval curves, noise ceilings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .images import Image, Ink, chart

_MARKERS = ("o", "s", "D", "^", "v", "P")


@dataclass(frozen=True)
class Series:
    """Scores of one model.

    Attributes
    ----------
    name : as the legend says it.
    values : region to (score, low, high).
    baseline : drawn hollow.
    """

    name: str
    values: Mapping[str, tuple[float, float, float]]
    baseline: bool = False


def scores_by_roi(series: Sequence[Series], alt: str) -> Image:
    """Noise-normalised r by region with 95 % intervals; the noise ceiling is the line at 1."""
    rois = list(dict.fromkeys(roi for one in series for roi in one.values))

    def draw(figure: Figure, ink: Ink) -> None:
        axes = figure.subplots()
        axes.axvline(1, color=ink.text, lw=1.2)
        axes.axvline(0, color=ink.muted, lw=1, ls=":")
        for k, one in enumerate(series):
            _dots(axes, one, rois, (k - (len(series) - 1) / 2) * 0.76 / len(series), ink.series[k], _MARKERS[k])
        for edge in np.arange(0.5, len(rois) - 1):
            axes.axhline(edge, color=ink.grid, lw=0.8)
        axes.set(ylim=(len(rois) - 0.5, -0.5), yticks=range(len(rois)), yticklabels=rois)
        axes.set_xlim(min(-0.1, *axes.get_xlim()), max(1.05, axes.get_xlim()[1]))
        axes.set_xlabel("noise-normalised r   (1 = noise ceiling)")
        axes.grid(axis="x", lw=0.6)
        axes.tick_params(axis="y", length=0)
        axes.set_axisbelow(True)
        figure.legend(loc="outside upper left", ncols=_columns(figure), handletextpad=0.3, columnspacing=1.4)

    rows = 0.12 * len(series) * len(rois)
    return chart(draw, alt, wide=(10.8, 1.4 + rows), narrow=(4.4, 2.4 + rows))


def _dots(axes: Axes, one: Series, rois: Sequence[str], shift: float, colour: str, marker: str) -> None:
    known = [roi for roi in rois if roi in one.values]
    scores = np.array([one.values[roi] for roi in known]).reshape(-1, 3)
    y = np.array([rois.index(roi) for roi in known]) + shift
    axes.errorbar(
        scores[:, 0],
        y,
        xerr=np.abs(scores[:, 1:] - scores[:, :1]).T,
        fmt=marker,
        color=colour,
        mfc="none" if one.baseline else colour,
        ms=5.5,
        lw=1.4,
        label=one.name,
    )


def bars_by_roi(series: Sequence[Series], rois: Sequence[str], label: str, alt: str) -> Image:
    """A panel a region, a bar a model in the order given, with its interval; any number of models and regions.

    Parameters
    ----------
    label : quantity on the axis. Baselines are drawn paler; NaN leaves out a bar, or its interval.
    """

    def draw(figure: Figure, ink: Ink) -> None:
        columns = _columns(figure, 3, 1)
        panels = figure.subplots(-(-len(rois) // columns), columns, sharex=True, sharey=True, squeeze=False).ravel()
        values = np.array([[one.values.get(roi, (np.nan,) * 3) for one in series] for roi in rois])
        for axes, roi, scores in zip(panels, rois, values, strict=False):
            centre, low, high = scores.T
            places = np.arange(len(series))
            axes.barh(places, centre, 0.7, color=ink.series[0], alpha=0.85)
            for bar, one in zip(axes.patches, series, strict=True):
                bar.set_alpha(0.4 if one.baseline else 0.85)
            axes.errorbar(centre, places, xerr=[centre - low, high - centre], fmt="none", ecolor=ink.text, lw=1.3)
            axes.set_title(roi, fontsize=10.5, loc="left")
            axes.axvline(0, color=ink.muted, lw=1)
            axes.grid(axis="x", lw=0.6)
            axes.tick_params(axis="y", length=0)
            axes.set_axisbelow(True)
        panels[0].set(yticks=range(len(series)), yticklabels=[one.name for one in series])
        panels[0].set(ylim=(len(series) - 0.5, -0.5), xlim=_span(values))
        for axes in panels[len(rois) :]:
            axes.set_visible(False)
        for axes in panels[max(0, len(rois) - columns) : len(rois)]:
            axes.tick_params(labelbottom=True)
        figure.supxlabel(label, fontsize=10.5)

    panel = 0.55 + 0.24 * len(series)
    return chart(draw, alt, wide=(10.8, 0.6 + panel * -(-len(rois) // 3)), narrow=(4.4, 0.6 + panel * len(rois)))


def _span(values: np.ndarray) -> tuple[float, float]:
    """Limits of an axis that holds all values, and 0."""
    low, high = np.nanmin(values, initial=0.0), np.nanmax(values, initial=0.1)
    return float(low * 1.05), float(high * 1.05)


def retrieval_curve(shares: np.ndarray, alt: str) -> Image:
    """Share of stimuli whose own picture is among the first k, (gallery,) for k = 1, 2, ..., beside chance."""

    def draw(figure: Figure, ink: Ink) -> None:
        axes = figure.subplots()
        size = len(shares)
        ranks = np.arange(1, size + 1)
        axes.plot(ranks, shares, color=ink.series[0], lw=2, label="own picture")
        axes.plot(ranks, ranks / size, color=ink.muted, lw=1.4, ls=":", label="chance")
        axes.set(xscale="log", xlim=(1, size), ylim=(0, 1.02))
        axes.set_xticks([k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if k <= size])
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.minorticks_off()
        axes.set(xlabel="k, pictures looked at", ylabel="share of scenes found among them")
        axes.grid(lw=0.6)
        figure.legend(loc="outside upper left", ncols=2)

    return chart(draw, alt, wide=(10.8, 3.8), narrow=(4.4, 3.8))


def ceilings_by_roi(estimated: Mapping[str, np.ndarray], planted: Mapping[str, np.ndarray], alt: str) -> Image:
    """Estimated noise ceilings of each region's neuroids (fraction of variance) beside the mean planted one."""
    rois = list(estimated)

    def draw(figure: Figure, ink: Ink) -> None:
        axes = figure.subplots()
        for row, roi in enumerate(rois):
            low, first, middle, third, high = np.percentile(estimated[roi], [2.5, 25, 50, 75, 97.5])
            axes.plot([low, high], [row, row], color=ink.series[0], lw=1.4)
            axes.plot([first, third], [row, row], color=ink.series[0], lw=6, solid_capstyle="butt")
            axes.plot(middle, row, "|", color=ink.text, ms=13, mew=2)
            axes.plot(planted[roi].mean(), row, "D", color=ink.series[1], ms=6)
        axes.plot([], [], color=ink.series[0], lw=6, label="estimated: middle half, line to 95 %")
        axes.plot([], [], "D", color=ink.series[1], ms=6, label="planted")
        axes.set(ylim=(len(rois) - 0.5, -0.5), yticks=range(len(rois)), yticklabels=rois)
        axes.set_xlabel("noise ceiling, fraction of variance")
        axes.grid(axis="x", lw=0.6)
        axes.tick_params(axis="y", length=0)
        axes.set_axisbelow(True)
        figure.legend(loc="outside upper left", ncols=_columns(figure, 2, 1))

    rows = 0.3 * len(rois)
    return chart(draw, alt, wide=(10.8, 1.2 + rows), narrow=(4.4, 1.6 + rows))


def _columns(figure: Figure, wide: int = 4, narrow: int = 2) -> int:
    return wide if figure.get_figwidth() > 6 else narrow
