"""Kills processes with SIGKILL in the middle of their saves, and looks at what can be restored.

    python -m tests.campaigns.kill

Each process goes on from what the one before it left, and saves state after state. A state is written in the background
while the next one is made, so that whenever a process is killed, a save of it has begun and has not been waited for.
"""

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jaxnets import train
from tests.campaigns import made

ROOT = Path(__file__).parents[2]


def save_without_end(folder, size):
    """What a process does until it is killed: tells on standard output which save has begun."""
    with train.Checkpoints(folder, report=sys.exit) as checkpoints:
        found = checkpoints.restore(made.state(0, size))
        step = int(found[0].step) if found else 0
        while True:
            step += 1
            checkpoints.save(made.state(step, size))
            print(step, flush=True)


def kill_one(folder, size, rng):
    """Starts a process and kills it at a random moment of a save; gives the last step whose save had begun."""
    command = [sys.executable, "-m", "tests.campaigns.kill", str(folder), str(size)]
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    child = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    told = [(child.stdout.readline(), time.monotonic()) for _ in range(2)]
    period = told[1][1] - told[0][1]
    time.sleep(rng.uniform(0, period))
    child.kill()
    rest, errors = child.communicate()
    if child.returncode != -9:
        raise RuntimeError(f"the process ended by itself, with code {child.returncode}: {errors}")
    return int([*"".join(line for line, _ in told).split(), *rest.split()][-1])


def campaign(kills, size, *, seed=0):
    """Kills so many processes; gives the sentence of what came of it, and raises AssertionError at the first loss."""
    rng, writing, begun = random.Random(seed), 0, time.monotonic()
    megabytes = sum(map(len, made.bits(made.state(0, size)).values())) / 1e6
    with tempfile.TemporaryDirectory() as folder:
        for i in range(kills):
            last = kill_one(folder, size, rng)
            writing += any("tmp" in path.name for path in Path(folder).iterdir())
            reports = []
            checkpoints = train.Checkpoints(folder, report=reports.append)
            state, _ = checkpoints.restore(made.state(0, size))
            step, different = int(state.step), made.different(state, size)
            told = f"kill {i}: save {last} had begun, {checkpoints.steps()} are there, step {step} was restored: "
            # The save of a step waits for that of the one before.
            assert step in (last - 1, last, last + 1), told
            assert step == checkpoints.steps()[-1], told + f"{reports}"
            assert (Path(folder) / str(step) / "checksums.json").exists(), told + "without checksums of its files"
            assert not different, told + f"{different} differ"
    return (
        f"{kills} of {kills} kills in asynchronous saves of {megabytes:.1f} MB left a committed step with every leaf "
        f"as it was saved; {writing} came while files were written; {time.monotonic() - begun:.0f} s"
    )


if __name__ == "__main__":
    if sys.argv[1:]:
        save_without_end(sys.argv[1], int(sys.argv[2]))
    print(campaign(50, 13_000_000 // 4))
