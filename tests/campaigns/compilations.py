"""An epoch of texts in buckets: what was compiled for it, and for an evaluation, as the ledger tells.

    JAXNETS_DATA=... python -m tests.campaigns.compilations

Trains `examples/sentiment.py` on IMDB by its own recipe for an epoch and measures it on the validation data.
"""

import importlib.util
import sys
from pathlib import Path

from jaxnets import data, train

EXAMPLE = Path(__file__).parents[2] / "examples" / "sentiment.py"


def campaign(name, limit=8):
    """Trains for an epoch; gives a sentence, the programs below it, and whether the epoch kept to the limit."""
    example = loaded()
    texts = data.load_labelled(name)
    _, task, (step, state, loader) = example.Train(data=name).resolved({}).prepared(texts)
    validation = task.part(texts.validation)
    with train.CompileLedger() as ledger:
        state, _ = train.fit(state, step, loader, steps=loader.steps_per_epoch)
        epoch = len(ledger.entries)
        task.evaluate(state, validation)
    sentence = (
        f"{epoch} compilations over an epoch of {name}, {loader.steps_per_epoch} batches in {len(loader.bounds)} "
        f"buckets, {limit} allowed; {len(ledger.entries) - epoch} more over its validation data:\n{ledger}"
    )
    return sentence, epoch <= limit


def loaded():
    """The example as a module."""
    spec = importlib.util.spec_from_file_location("sentiment", EXAMPLE)
    module = sys.modules["sentiment"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    sentence, good = campaign("imdb")
    print(sentence)
    sys.exit(not good)
