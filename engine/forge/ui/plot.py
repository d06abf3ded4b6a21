"""Curves of runs: in the terminal, as a PNG, and as TensorBoard's event files.

Each library loads in the function that needs it; none of them is part of the core profile.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from forge.errors import UsageError
from forge.plan.render import quantity
from forge.ui.series import MFU_FORMULA, Series

Curves = Mapping[str, Mapping[str, Series]]
"""By run: its series by name."""

_COLUMNS = 2
_DOTS_PER_INCH = 120


def to_terminal(curves: Curves, wanted: Sequence[str], width: int, height: int) -> str:
    """One plot below the other, at most so many characters wide and lines high each; without colours."""
    try:
        import plotext
    except ImportError as error:
        raise _lacks("plotext") from error
    parts = []
    for name in wanted:
        shown = {run: series[name] for run, series in curves.items() if name in series}
        if not shown:
            continue
        title = next(iter(shown.values())).title
        if all(len(series.tokens) == 1 for series in shown.values()):  # a point makes no curve
            parts += [f"{title}: {_point(run, series, many=len(shown) > 1)}" for run, series in shown.items()]
            continue
        plotext.clear_figure()
        plotext.theme("clear")
        plotext.plotsize(width, height)
        plotext.title(title)
        plotext.xlabel("tokens")
        for run, series in shown.items():
            plotext.plot(series.tokens, series.values, label=run if len(shown) > 1 else None)
        most = max(series.tokens[-1] for series in shown.values())
        plotext.xticks([most * part / 4 for part in range(5)], [quantity(most * part / 4) for part in range(5)])
        parts.append(plotext.build())
        if name == "mfu":
            parts.append(MFU_FORMULA)
    return "\n".join(parts) + "\n"


def to_png(curves: Curves, wanted: Sequence[str], path: Path) -> None:
    """All wanted series as one picture."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise _lacks("matplotlib") from error
    mpl.use("Agg")
    from matplotlib import pyplot

    names = [name for name in wanted if any(name in series for series in curves.values())]
    rows = -(-len(names) // _COLUMNS)
    columns = min(_COLUMNS, len(names))
    figure, axes = pyplot.subplots(rows, columns, figsize=(6.2 * columns, 3.4 * rows), squeeze=False, layout="constrained")
    for axis, name in zip(axes.flat, names, strict=False):
        _draw(axis, curves, name)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    if len(curves) > 1:
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(4, len(curves)), frameon=False)
    else:
        figure.suptitle(next(iter(curves)))
    figure.savefig(path, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})
    pyplot.close(figure)


def to_tensorboard(curves: Curves, folder: Path) -> None:
    """One folder of event files per run, as TensorBoard reads them: the step is the number of tokens."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise _lacks("tensorboardX") from error
    for run, series in curves.items():
        with SummaryWriter(str(folder / run.replace("/", "_").replace(" ", "_"))) as writer:
            for name, each in series.items():
                for tokens, value in zip(each.tokens, each.values, strict=True):
                    writer.add_scalar(name, value, global_step=tokens)


def _point(run: str, series: Series, *, many: bool) -> str:
    return f"{series.values[0]:.4g} at {quantity(series.tokens[0])} tokens{f' ({run})' if many else ''}"


def _draw(axis: Any, curves: Curves, name: str) -> None:
    for run, series in curves.items():
        if name in series:
            marker = "o" if len(series[name].tokens) < 3 else None
            axis.plot(series[name].tokens, series[name].values, label=run, linewidth=1.2, marker=marker, markersize=3)
            axis.set_title(series[name].title, fontsize=10)
    axis.set_xlabel("tokens", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.grid(visible=True, alpha=0.25)
    most = max(each.tokens[-1] for series in curves.values() for each in series.values())
    axis.set_xlim(0, 1.02 * most)
    axis.xaxis.set_major_formatter(lambda tokens, _: quantity(tokens))
    if name == "mfu":
        axis.set_xlabel(f"tokens\n{MFU_FORMULA}", fontsize=6)


def _lacks(library: str) -> UsageError:
    return UsageError(f"this plot needs {library}, which the core profile does not have: `make setup` installs the cpu profile")
