"""Log-log charts, and numbers as people write them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY, LINE = "#757b82", "#d5d8db"


def prefixed(value: float, unit: str = "") -> str:
    """1500 → `1.5 k`, with three digits."""
    from matplotlib.ticker import EngFormatter  # late: half a second

    rounded = float(f"{value:.3g}")
    return (EngFormatter(unit)(rounded) if rounded >= 1 else f"{rounded:g} {unit}").strip()


def blank_charts(n: int) -> "tuple[Figure, list[Axes]]":
    """A figure of `n` charts side by side, to be filled, named and saved."""
    from matplotlib.figure import Figure  # late: half a second

    figure = Figure((9 * n, 6.4), dpi=100, layout="constrained")
    figure.get_layout_engine().set(wspace=0.05, w_pad=0.2, h_pad=0.2)
    return figure, list(figure.subplots(1, n, squeeze=False)[0])


def finish_chart(axes: "Axes", title: str, caption: str, x: str, y: str) -> None:
    """Logarithmic axes with their names, and a legend in the order in which the lines end."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set(xscale="log", yscale="log")
    axes.set_title(f"{title}\n", loc="left", fontsize=17)
    axes.annotate(caption, (0, 1), (0, 12), "axes fraction", "offset points", color=GREY)
    for axis, name in ((axes.xaxis, x), (axes.yaxis, y)):
        axis.set_label_text(name, color=GREY)
        low, high = axis.get_view_interval()
        few = high / low < 200  # less than about two powers of ten: 2 and 5 between them
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
        axis.set_major_formatter(lambda value, _: prefixed(value))
        axis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="both", length=0, labelcolor=GREY)
    axes.grid(color=LINE)
    axes.spines[:].set_visible(False)
    lines = sorted(axes.lines, key=lambda line: -line.get_ydata()[-1])
    axes.legend(handles=lines, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
