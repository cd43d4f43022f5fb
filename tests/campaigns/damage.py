"""Damages the files of the newest checkpoint, one at a time, and looks at what is restored.

    python -m tests.campaigns.damage

Single bits are flipped, and files cut short or deleted: half of the time in a checkpoint that has its files' checksums,
else in one that has lost those and has its leaves' alone. Right is the step before, with one line that says why,
or the newest step with every leaf as it was saved, where the damage did not touch what it holds.
"""

import itertools
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from jaxnets import train
from tests.campaigns import made

SIZE = 20_000
STEPS = (1, 2)


def flip(path, rng):
    """Flips a bit of a file."""
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def cut(path, rng):
    """Leaves a part of a file, which may be none of it."""
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def delete(path, rng):
    """Deletes a file."""
    path.unlink()


def saved(folder):
    """Two checkpoints, of which the newest is to be damaged."""
    with train.Checkpoints(folder) as checkpoints:
        for step in STEPS:
            checkpoints.save(made.state(step, SIZE), {"best": 1 / step})


def outcome(folder):
    """Restores: "whole" or "fell back" if all is as it should be, else what is wrong."""
    reports = []
    try:
        found = train.Checkpoints(folder, report=reports.append).restore(made.state(0, SIZE))
    except Exception as error:
        return f"raised {type(error).__name__}: {error}"
    if found is None:
        return f"nothing was restored: {reports}"
    state, extra = found
    step = int(state.step)
    if different := made.different(state, SIZE):
        return f"silently wrong: {different}"
    if extra != {"best": 1 / step}:
        return f"silently wrong beside the state: {extra}"
    if step == STEPS[1]:
        return "whole" if not reports else f"restored with {reports}"
    named = len(reports) == 1 and str(folder / str(STEPS[1])) in reports[0] and "\n" not in reports[0]
    return "fell back" if named else f"fell back with {reports}"


def campaign(flips, cuts, *, seed=0):
    """Does so much damage, half of it to a sealed checkpoint; gives a line for each kind, and what went wrong."""
    rng, counts, wrong, begun = random.Random(seed), {}, [], time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        whole, folder = Path(temporary, "whole"), Path(temporary, "damaged")
        saved(whole)
        kinds = [*[flip] * flips, *itertools.islice(itertools.cycle([cut, delete]), cuts)]
        for i, harm in enumerate(kinds):
            sealed = "sealed" if i // 2 % 2 else "unsealed"
            shutil.copytree(whole, folder)
            if sealed == "unsealed":
                (folder / str(STEPS[1]) / "checksums.json").unlink()
            files = sorted(
                path for path in (folder / str(STEPS[1])).rglob("*") if path.is_file() and path.stat().st_size
            )
            path = rng.choice(files)
            harm(path, rng)
            came = outcome(folder)
            kind = (sealed, harm.__name__, came if came in ("whole", "fell back") else "wrong")
            counts[kind] = counts.get(kind, 0) + 1
            if kind[-1] == "wrong":
                wrong.append(f"{sealed}, {harm.__name__} {path.relative_to(folder)}: {came}")
            shutil.rmtree(folder)
    lines = [f"{' '.join(kind):30} {count}" for kind, count in sorted(counts.items())]
    lines.append(f"{len(wrong)} of {len(kinds)} wrong; {time.monotonic() - begun:.0f} s")
    return lines, wrong


if __name__ == "__main__":
    lines, wrong = campaign(200, 100)
    print("\n".join([*lines, *wrong]))
    sys.exit(bool(wrong))
