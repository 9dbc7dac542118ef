"""Pictures of the explanations, by matplotlib; colours are told apart with any colour vision."""

from __future__ import annotations

import itertools
import os
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubp.arrays import check_count
from gpubp.plot import check_plot

if TYPE_CHECKING:
    from .demon import Perturbation
    from .design import Design
    from .pathsum import Paths
    from .tracing import Trace
    from .vitals import Health

# Okabe and Ito's colours.
BLUE, VERMILION, GREEN, ORANGE, SKY, PURPLE = (
    "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7",
)  # fmt: skip
GREY = "#777777"
_DIVERGING = "PuOr"  # negative orange, positive purple
_MOST_BARS = 40  # neurons; of more, a line of dots
_MOST_DRAWN = 12  # neurons of a layer in a picture of the network


def new_figure(width: float, height: float) -> Any:
    """A Figure of its own, outside pyplot's global state; ``ValueError`` without matplotlib."""
    check_plot("picture.png")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def saved(figure: Any, path: str | os.PathLike[str] | None) -> Any:
    """``figure``, after writing it to ``path`` if there is one."""
    if path is not None:
        check_plot(path)
        figure.savefig(path)
    return figure


def _index_axis(panel: Any, label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    panel.set_xlabel(label)
    panel.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def draw_trace(trace: Trace, example: int, path: Any) -> Any:
    """A column a layer; down it z, a, sigma'(z), delta and nabla_w of one example."""
    m = len(trace.x)
    if check_count(example, "example", least=0) >= m:
        raise ValueError(f"example={example} is not in a trace of {m} examples, 0 to {m - 1}")
    names = ("z", "a", "sigma_prime", "delta")
    colours = dict(zip(names, (BLUE, GREEN, ORANGE, VERMILION), strict=True))
    columns = len(trace.layers)
    figure = new_figure(max(4.0, 3.4 * columns), 10.5)
    grid = figure.subplots(5, columns, squeeze=False, height_ratios=[1, 1, 1, 1, 1.3])
    for column, layer in zip(grid.T, trace.layers, strict=True):
        for panel, name in zip(column, names, strict=False):
            values, n = getattr(layer, name), layer.z.shape[1]
            title = _short(layer.equations[name])
            if name == "a":  # the user's name or formula is text, not mathematics
                title = f"$a^{{{layer.l}}}$ = {_plain(layer.activation)}, of $z^{{{layer.l}}}$"
            panel.set_title(title, fontsize=9)
            if values is None:
                panel.text(0.5, 0.5, "softmax is not elementwise", ha="center", va="center",
                           transform=panel.transAxes, fontsize=9, color=GREY)  # fmt: skip
                panel.set_axis_off()
                continue
            if n <= _MOST_BARS:
                panel.bar(range(n), _finite(values[example]), color=colours[name])
            else:
                panel.plot(_finite(values[example]), ".", markersize=3, color=colours[name])
            panel.axhline(0, color="black", linewidth=0.6)
            panel.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
            _index_axis(panel, "neuron j")
        nabla = _finite(layer.nabla_w[example])
        reach = float(np.nanmax(np.abs(nabla), initial=0.0)) or 1.0
        image = column[-1].imshow(
            nabla, cmap=_DIVERGING, vmin=-reach, vmax=reach, aspect="auto", interpolation="nearest"
        )
        column[-1].set_title(_short(layer.equations["nabla_w"]), fontsize=9)
        column[-1].set_ylabel("j")
        _index_axis(column[-1], f"neuron k of layer {layer.l - 1}")
        bar = figure.colorbar(image, ax=column[-1], location="bottom", pad=0.02)
        bar.ax.ticklabel_format(style="sci", scilimits=(-2, 3))
        bar.ax.tick_params(labelsize=8)
        bar.ax.locator_params(nbins=5)
    figure.suptitle(
        f"example {example}: C = {trace.cost[example]:.4g} ({_plain(trace.cost_name)})",
        fontsize=11,
    )
    return saved(figure, path)


def _finite(values: Any) -> Any:
    """What can be drawn: NaN, a gap, for infinity."""
    return np.where(np.isfinite(values), values, np.nan)


def _plain(name: str) -> str:
    """A user's name or formula as text, whatever signs it holds."""
    return (name if len(name) <= 40 else f"{name[:37]}...").replace("$", r"\$")


def _short(equation: str) -> str:
    """An equation in matplotlib's mathematics, without its remark in brackets."""
    text = equation.split(" (softmax with")[0]
    name, _, right = text.partition(": ") if text[:2] == "BP" else ("", "", text)
    if ": sigma' cancels)" in right:
        right = right[: right.rindex(" (")]
    for plain, tex in (
        ("(x)", r"\odot"), ("sigma'", r"\sigma'"), ("delta", r"\delta"), ("nabla_w", r"\nabla_w"),
        ("grad_a", r"\nabla_a"), ("dC/d", r"\partial C/\partial "), ("^T", r"^{\mathsf{T}}"),
    ):  # fmt: skip
        right = right.replace(plain, tex)
    return f"{name}:  ${right}$" if name else f"${right}$"


def _indices(text: str) -> str:
    """delta^2_1 and dC/dw^2_0,1 in matplotlib's mathematics."""
    text = text.replace("delta", r"\delta").replace("dC/d", r"\partial C/\partial ")
    return re.sub(r"^([^^]+)\^(\d+)_([\d,]+)", r"$\1^{\2}_{\3}$", text)


def draw_perturbation(found: Perturbation, path: Any) -> Any:
    """Left: real change and prediction over the step; right: the error on logarithmic axes."""
    figure = new_figure(8.4, 3.8)
    left, right = figure.subplots(1, 2)
    order = np.argsort(found.step)
    step = found.step[order]
    left.plot(step, found.change[order], "o-", color=BLUE, label="real change of C", markersize=4)
    left.plot(step, found.prediction[order], "--", color=VERMILION, label="predicted: rate x step")
    left.set_xlabel(f"step added to {_indices(found.what)}")
    left.set_ylabel("change of the cost")
    left.ticklabel_format(style="sci", scilimits=(-2, 3))
    left.legend(fontsize=9)
    size, error = np.abs(step), np.abs(found.error[order])
    shown = error > 0
    if shown.any():
        right.loglog(size[shown], error[shown], "o", color=BLUE, label="|error|", markersize=5)
        anchor = np.flatnonzero(shown)[np.argmax(size[shown])]
        square = error[anchor] * (size / size[anchor]) ** 2
        right.loglog(size, square, ":", color=GREY, label="slope 2: quadratic")
        right.legend(fontsize=9)
    right.set_xlabel("|step|")
    right.set_ylabel("|real change - prediction|")
    measured = "rounding alone" if np.isnan(found.order) else f"measured order {found.order:.2f}"
    right.set_title(measured, fontsize=10)
    left.set_title(f"{_indices(found.equation)} = {found.rate:.4g}", fontsize=10)
    for panel in (left, right):
        panel.grid(alpha=0.3)
    return saved(figure, path)


def _drawn(neurons: int, visited: set[int]) -> list[int]:
    """The neurons of a layer to draw: all of a small one, else those visited and some between."""
    if neurons <= _MOST_DRAWN:
        return list(range(neurons))
    some = np.linspace(0, neurons - 1, max(0, _MOST_DRAWN - len(visited))).round().astype(int)
    return sorted(visited | set(some.tolist()))


def draw_paths(found: Paths, path: Any) -> Any:
    """The network in columns of neurons; on it the strongest paths from the weight to the cost,
    the wider the stronger, positive ones solid and blue, negative ones dashed and vermilion."""
    sizes, start = found.sizes, found.layer - 2  # the column where the weight begins
    routes = [(found.k, *strong.neurons) for strong in found.strongest] or [(found.k, found.j)]
    visited = [
        {route[column - start] for route in routes if 0 <= column - start < len(route)}
        for column in range(len(sizes))
    ]
    drawn = [_drawn(n, seen) for n, seen in zip(sizes, visited, strict=True)]
    height = max(map(len, drawn))
    spots: list[dict[int, tuple[float, float]]] = []
    for column, js in enumerate(drawn):
        spread = min(height - 1, 1.6 * (len(js) - 1)) / 2  # few neurons stand close together
        rows = np.linspace(spread, -spread, len(js)) if len(js) > 1 else [0.0]
        spots.append({j: (float(column), float(y)) for j, y in zip(js, rows, strict=True)})
    goal = (float(len(sizes)), 0.0)
    figure = new_figure(2.1 * len(sizes) + 2.2, max(3.6, 0.42 * height + 1.6))
    panel = figure.subplots()
    for below, above in itertools.pairwise(spots):
        for x0, y0 in below.values():
            for x1, y1 in above.values():
                panel.plot([x0, x1], [y0, y1], color="#dddddd", linewidth=0.5, zorder=1)
    for x0, y0 in spots[-1].values():
        panel.plot([x0, goal[0]], [y0, goal[1]], color="#dddddd", linewidth=0.5, zorder=1)
    most = max((abs(strong.rate) for strong in found.strongest), default=0.0) or 1.0
    for strong, route in reversed(list(zip(found.strongest, routes, strict=True))):
        points = [spots[start + hop][j] for hop, j in enumerate(route)] + [goal]
        shift = 0.03 * (found.strongest.index(strong) - (len(routes) - 1) / 2)  # side by side
        points = [(x, y + shift) for x, y in points]
        panel.plot(
            *zip(*points, strict=True),
            color=BLUE if strong.rate >= 0 else VERMILION,
            linestyle="-" if strong.rate >= 0 else (0, (4, 1.5)),
            linewidth=0.6 + 5 * abs(strong.rate) / most,
            solid_capstyle="round", alpha=0.85, zorder=2,
        )  # fmt: skip
    for places, seen in zip(spots, visited, strict=True):
        for j, (x0, y0) in places.items():
            panel.plot(x0, y0, "o", markersize=17, zorder=3, color="white",
                       markeredgecolor="black" if j in seen else "#bbbbbb")  # fmt: skip
            panel.text(x0, y0, str(j), ha="center", va="center", fontsize=8, zorder=4,
                       color="black" if j in seen else GREY)  # fmt: skip
    panel.plot(*goal, "s", markersize=18, color="white", markeredgecolor="black", zorder=3)
    panel.text(*goal, "C", ha="center", va="center", fontsize=10, zorder=4)
    for column, n in enumerate(sizes):
        hidden = "" if len(drawn[column]) == n else f"\n{len(drawn[column])} of {n}"
        panel.text(column, -height / 2 - 0.25, f"layer {column + 1}{hidden}", ha="center",
                   va="top", fontsize=9)  # fmt: skip
    for colour, style, label in ((BLUE, "-", "positive"), (VERMILION, (0, (4, 1.5)), "negative")):
        panel.plot([], [], color=colour, linestyle=style, linewidth=2.5, label=f"{label} rate")
    panel.legend(loc="lower right", fontsize=9, frameon=False, ncols=2)
    panel.set_ylim(-height / 2 - 1.7, height / 2 + 0.1)
    panel.set_xlim(-0.4, goal[0] + 0.3)
    panel.set_axis_off()
    panel.set_title(
        _indices(f"dC/dw^{found.layer}_{found.j},{found.k}")
        + f" = {found.nabla_w:.4g}, the sum over {found.count:,} paths; "
        f"the {len(found.strongest)} strongest",
        fontsize=10,
    )
    return saved(figure, path)


def draw_health(found: Health, path: Any) -> Any:
    """Three panels over the layers: shares, learning speeds, steps relative to the weights."""
    from .vitals import FAST, LARGE_STEP, SLOW, SMALL_STEP

    layers = found.layers
    has_delta = layers[0].speed is not None
    figure = new_figure(max(5.0, (3.6 if has_delta else 1.8) * 3), 3.9)
    panels = figure.subplots(1, 3 if has_delta else 1, squeeze=False)[0]
    places = np.arange(len(layers))
    shares = (
        ("saturated", VERMILION, "", [s.saturated or 0.0 for s in layers]),
        ("dead neurons", PURPLE, "//", [(s.dead or 0) / s.neurons for s in layers]),
        ("quiet inputs", SKY, "..", [s.quiet_inputs for s in layers]),
    )
    for offset, (label, colour, hatch, values) in zip((-0.27, 0, 0.27), shares, strict=True):
        panels[0].bar(places + offset, 100 * np.array(values), 0.25, color=colour, label=label,
                      hatch=hatch, edgecolor="white")  # fmt: skip
    panels[0].set_ylim(0, 100)
    panels[0].set_ylabel("share (%)")
    panels[0].legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.2), ncols=3,
                     handlelength=1.2, columnspacing=1.0)  # fmt: skip
    if has_delta:
        lines = (
            (panels[1], "speed of learning\n(output layer = 1)", GREEN, SLOW, FAST,
             [s.relative_speed for s in layers]),
            (panels[2], f"one step relative to |w|\n(eta = {found.eta:g})", BLUE,
             SMALL_STEP, LARGE_STEP, [s.update_ratio for s in layers]),
        )  # fmt: skip
        for panel, label, colour, low, high, heights in lines:
            panel.plot(places, heights, "o-", color=colour)
            panel.set_yscale("log")
            panel.axhspan(low, high, color=colour, alpha=0.12, zorder=0)
            panel.axhline(low, color=GREY, linestyle=":", linewidth=1)
            panel.axhline(high, color=GREY, linestyle=":", linewidth=1)
            panel.set_title(label, fontsize=9)
            panel.grid(alpha=0.3)
    for panel in panels:
        panel.set_xticks(places, [f"{s.l}" for s in layers])
        panel.set_xlim(-0.6, len(layers) - 0.4)
        panel.set_xlabel("layer l")
    return saved(figure, path)


def draw_design(found: Design, path: Any) -> Any:
    """Four panels: sigma, sigma', ||delta^l|| through the layers, accuracy over the epochs."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(8.6, 6.4)
    panels = figure.subplots(2, 2).ravel()
    for portrait, colour, style, marker in zip(
        found.portraits, (BLUE, VERMILION), ("-", "--"), ("o", "s"), strict=True
    ):
        line = {"color": colour, "linestyle": style, "label": _plain(portrait.name)}
        panels[0].plot(found.z, portrait.sigma, **line)
        panels[1].plot(found.z, portrait.sigma_prime, **line)
        layers = np.arange(len(portrait.delta_norms)) + 2
        panels[2].plot(layers, portrait.delta_norms, marker=marker, markersize=4, **line)
        accuracy = 100 * portrait.accuracies
        panels[3].plot(range(len(accuracy)), accuracy, marker=marker, markersize=4, **line)
    panels[2].set_yscale("log")
    for panel, title, across, up in (
        (panels[0], "the activation", "z", r"$\sigma(z)$"),
        (panels[1], "its slope, a factor of BP1 and BP2", "z", r"$\sigma'(z)$"),
        (panels[2], "delta on its way down, BP2", "layer l", r"$||\delta^l||\ /\ ||\delta^L||$"),
        (panels[3], "training", "epoch", "unseen digits right (%)"),
    ):
        panel.set_title(title, fontsize=10)
        panel.set_xlabel(across)
        panel.set_ylabel(up)
        panel.grid(alpha=0.3)
    for panel in panels[2:]:
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].legend(fontsize=9)
    return saved(figure, path)
