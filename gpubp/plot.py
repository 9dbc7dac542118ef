"""Learning curves as a picture: cost above, accuracy or R2 below, over the epochs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from .history import History

# Okabe and Ito's blue, vermilion and green: told apart with any colour vision.
_BLUE, _VERMILION, _GREEN = "#0072B2", "#D55E00", "#009E73"


def check_plot(path: str | os.PathLike[str]) -> None:
    """``ValueError`` where :func:`plot_history` could not draw to a file of this name."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError:
        raise ValueError("plots need matplotlib: pip install 'gpubp[plot]'") from None
    suffix = Path(path).suffix.lower().removeprefix(".")
    if suffix not in FigureCanvasAgg.get_supported_filetypes():
        raise ValueError(f"cannot plot to {os.fspath(path)}: end its name in .png, .svg or .pdf")


def plot_history(
    history: History, path: str | os.PathLike[str], r2: Sequence[float | None] | None = None
) -> None:
    """Draw training cost, validation cost and validation accuracy, those that there are; of a
    regression ``r2`` after each epoch, in the place of accuracy."""
    check_plot(path)
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    has_accuracy = any(accuracy is not None for accuracy in history.validation_accuracy)
    two = r2 is not None or has_accuracy
    figure = Figure(figsize=(6.4, 5.6 if two else 3.6), dpi=150, layout="constrained")
    panels = figure.subplots(2 if two else 1, 1, sharex=True, squeeze=False)[:, 0]
    epochs = [row.epoch for row in history]
    marker = "o" if len(history) <= 40 else ""

    def curve(panel: object, values: list[float | None], **style: str) -> None:
        heights = [float("nan") if value is None else value for value in values]
        panel.plot(epochs, heights, marker=marker, markersize=3.5, **style)  # type: ignore[attr-defined]

    curve(panels[0], list(history.cost), color=_BLUE, label="training")
    if any(cost is not None for cost in history.validation_cost):
        curve(
            panels[0], history.validation_cost, color=_VERMILION, linestyle="--", label="validation"
        )
    panels[0].set_ylabel("cost (mean of the examples)")
    panels[0].legend()
    if r2 is not None:
        curve(panels[1], list(r2), color=_GREEN)
        panels[1].set_ylabel("validation R2")
    elif has_accuracy:
        accuracy = [None if a is None else 100 * a for a in history.validation_accuracy]
        curve(panels[1], accuracy, color=_GREEN)
        panels[1].set_ylabel("validation accuracy (%)")
    for panel in panels:
        panel.grid(alpha=0.3)
    panels[-1].set_xlabel("epoch")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    figure.savefig(path)
