"""The figure of the basins on the page of a stability report."""

from ..._numbers import typeset_number, typeset_percent
from ..._stability_report import Basins
from ..figures._basins_figure import basins_figure
from ._stability_panels import Panel


def _basins(basins: Basins) -> str:
    shares = ", ".join(
        f"{typeset_percent(own.share)} at distance {typeset_number(size)}"
        for size, own in zip(basins.sizes, basins.ends["own"], strict=True)
    )
    random = typeset_percent(basins.random["own"].share)
    return f"Starts that lead to the attractor of the own start: {shares}; {random} of random ones."


BASINS_PANEL = Panel(
    "basins",
    "Basins: where other starts lead",
    basins_figure,
    "share of the starts by their distance from the end of the orbit, relative to its norm; random "
    "starts have that norm",
    "Full bars lead back to the attractor of the own start: they shrink with the distance where "
    "there is another attractor, or where the loop is slow.",
    _basins,
)
