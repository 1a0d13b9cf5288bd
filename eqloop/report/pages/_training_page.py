"""The page of a training run: its curves in one file that opens from disk."""

from collections.abc import Sequence

from .._escape import html_text
from .._training import Training
from ..figures._training_figure import training_figure
from ._page import page, picture


def training_page(training: Training, title: str, facts: Sequence[str]) -> bytes:
    """The page with the figure of a training run.

    **Arguments:**

    - `training`: see `read_training`.
    - `title`: the title of the page.
    - `facts`: one line each: how far the run is, and the values of its curves.

    **Returns** the bytes of the page.

    **Raises** `InputError` if matplotlib is missing.

    ```python
    >>> import eqloop
    >>> curve = eqloop.report.TrainingCurve("loss", "loss", [1, 2], [1.0, 0.5])
    >>> training = eqloop.report.Training(2, 2, (), 0.5, (curve,))
    >>> eqloop.report.training_page(training, "mine", ["step 2 of 2"])[:15]
    b'<!doctype html>'

    ```
    """
    drawing = picture(training_figure(training), "; ".join(facts))
    lines = "".join(f"<p>{html_text(fact)}</p>" for fact in facts)
    return page("training", title, {"facts": lines, "picture": drawing})
