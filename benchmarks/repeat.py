"""Two runs beside each other: whether the second came to the ratios of the first."""

from collections.abc import Sequence

from benchmarks import report
from benchmarks.measure import Record

TOLERANCE = 0.10
"""How far the ratios of two runs on a quiet machine may lie apart, of the first."""


def compared(first: Sequence[Record], second: Sequence[Record]) -> tuple[str, list[str]]:
    """The ratios of both runs, as a table, and those that lie apart though neither run was noisy there.

    Raises:
      ValueError: If no ratio was measured in both.
    """
    before = {(row.case, row.place, row.device, row.us, row.peer): row for row in report.ratios(first)}
    rows, apart = [], []
    for row in report.ratios(second):
        old = before.get((row.case, row.place, row.device, row.us, row.peer))
        if old is None:
            continue
        medians = old.spread["median"], row.spread["median"]
        change = medians[1] / medians[0] - 1
        verdict = "the same" if abs(change) <= TOLERANCE else "noisy" if old.noisy or row.noisy else "apart"
        what = f"{row.us} / {row.peer}"
        if verdict == "apart":
            apart.append(f"{row.case}, {row.place}: {what}")
        rows.append((row.case, row.place, what, *(f"{median:.2f}" for median in medians), f"{change:+.0%}", verdict))
    if not rows:
        raise ValueError("compare: the two folders have no ratio in common")
    return report.markdown(("case", "shape", "ours / peer", "first", "second", "change", ""), rows), apart
