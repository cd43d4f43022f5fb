"""Several processes on one machine: the losses of one, ends that are ends for all, and restarts to the same bits.

python -m tests.campaigns.processes
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

ROOT = Path(__file__).parents[2]
KILLED, RAISED, TOLERANCE = 15, 10, 5e-6


def started(folder, count, kind="data", faults=None):
    """Starts the processes of a run; `faults` by index."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"}
    processes = []
    for index in range(count):
        fault = [faults[index]] if faults and index in faults else []
        command = [sys.executable, "tests/on_processes.py", folder, port, count, index, kind, *fault]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen([*map(str, command)], cwd=ROOT, env=environment, **pipes))
    return processes


def trained(folder, count, kind="data"):
    """A run that nothing stops: what each process says of it."""
    processes = started(folder, count, kind)
    said = [process.communicate() for process in processes]
    for process, (_, errors) in zip(processes, said, strict=True):
        assert process.returncode == 0, errors
    # What sums on a CPU are made with tells of itself on standard output too.
    return [json.loads(output[output.index("{") : output.rindex("}") + 1]) for output, _ in said]


def ended(processes, since, within):
    """The exit codes and the seconds after which all had ended; those that had not are ended here."""
    for process in processes:
        try:
            process.wait(max(0.1, since + within - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    seconds = time.monotonic() - since
    for process in processes:
        process.stdout.close()
        process.stderr.close()
    return [process.returncode for process in processes], seconds


def until(process, words):
    """Reads what a process tells until it tells this."""
    told = []
    for line in process.stderr:
        told.append(line)
        if line.startswith(words):
            return time.monotonic()
    raise AssertionError("".join(told))


def killed(folder, victim, number=signal.SIGKILL):
    """Sends a signal to one of two processes in the midst of training."""
    processes = started(folder, 2, faults={0: "slow", 1: "slow"})
    until(processes[victim], "step 6")
    processes[victim].send_signal(number)
    return ended(processes, time.monotonic(), KILLED)


def raised(folder, index, other="none", kind="data"):
    """An exception in one of two processes."""
    processes = started(folder, 2, kind, {index: "raises", 1 - index: other})
    since = until(processes[index], "step 10")
    return ended(processes, since, RAISED)


def raised_unseen(folder, index):
    """An exception in one of two processes, while the other waits for nothing from it."""
    return raised(folder, index, "busy")


def same_losses(counts=(2, 4), kinds=("data", "fsdp", "resident")):
    """The largest difference of any loss from that of one process, and whether all processes have the same bits."""
    for kind in kinds:
        with tempfile.TemporaryDirectory() as parent:
            alone = trained(f"{parent}/1", 1, "resident" if kind == "resident" else "data")[0]
            for count in counts:
                results = trained(f"{parent}/{count}", count, kind)
                assert len({result["digest"] for result in results}) == 1, "the processes differ"
                assert (kind == "fsdp") == bool(results[0]["cut"])
                pairs = [(alone["losses"][step], loss) for step, loss in results[0]["losses"].items()]
                worst = max(abs(a - b) for a, b in pairs)
                assert len(pairs) == (4 if kind == "resident" else 16)
                assert worst <= TOLERANCE, worst
                yield f"{kind}, {count} processes: losses within {worst:.1e} of one process, the same bits in all"


def ends_and_restarts():
    """Each way to end: how long the other took, and that a restart comes to the bits of a run that nothing stopped."""
    with tempfile.TemporaryDirectory() as parent:
        whole = trained(f"{parent}/whole", 2)[0]["digest"]
        faults = [
            *(("kill -9 of", killed, victim, KILLED) for victim in (0, 1)),
            *(("an exception in", raised, victim, RAISED) for victim in (0, 1)),
            *(("an exception, the other busy, in", raised_unseen, victim, RAISED) for victim in (0, 1)),
        ]
        for name, fault, victim, limit in faults:
            folder = f"{parent}/{fault.__name__}{victim}"
            codes, seconds = fault(folder, victim)
            assert seconds < limit, (name, victim, seconds)
            assert 0 not in codes, codes
            again = trained(folder, 2)
            assert {result["digest"] for result in again} == {whole}, "a restart came to other bits"
            assert again[0]["begun"] > 0
            yield (
                f"{name} process {victim}: both gone after {seconds:.1f} s, codes {codes}; "
                f"restarted at step {again[0]['begun']}, the same bits"
            )
        codes, seconds = killed(f"{parent}/term", 1, signal.SIGTERM)
        assert codes == [143, 143], codes
        again = trained(f"{parent}/term", 2)
        assert {result["digest"] for result in again} == {whole}
        yield f"SIGTERM to process 1: both saved and gone after {seconds:.1f} s, codes {codes}, the same bits"


def main():
    """Prints the figures; an assertion that fails ends it."""
    for lines in (ends_and_restarts(), same_losses()):
        for line in lines:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
