"""The calls of training and sharding that users are promised: each name is there, and takes what it is to take."""

import dataclasses
import inspect
import operator

import pytest

import jaxnets as jn

CALLS = {
    "train.create": (("model", "optimizer", "batch"), ("key", "ema", "precision", "guard", "keep_carry")),
    "train.make_step": (
        ("model", "optimizer", "loss"),
        ("metrics", "apply", "augment", "accumulate", "precision", "ema", "guard", "checks"),
    ),
    "train.make_eval_step": (("model", "loss"), ("metrics", "apply", "precision")),
    "train.fit": (("state", "step", "data"), ("steps", "callbacks")),
    "train.evaluate": (("eval_step", "state", "data"), ()),
    "train.predict": (("model", "state", "x"), ("batch_size", "apply")),
    "train.sweep": (("model", "make_optimizer", "loss", "data"), ("steps", "keys", "hyper", "mesh")),
    "train.grid": (("keys", "hyper"), ()),
    "train.every": (("n", "callback"), ("at_end",)),
    "train.Best": (("path",), ("metric", "mode", "patience")),
    "train.Checkpoints": (("directory",), ("keep", "fingerprint", "extra", "report")),
    "train.load_weights": (("path", "template"), ()),
    "train.save_weights": (("path", "variables"), ("metadata",)),
    "sharding.make_mesh": ((), ("data", "fsdp", "tensor", "devices")),
    "sharding.place_state": (("state", "mesh", "rules"), ()),
    "sharding.place_batch": (("batch", "mesh"), ("whole",)),
    "sharding.place_data": (("data", "mesh"), ("whole",)),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_takes_what_it_is_promised_to(name):
    positional, named = CALLS[name]
    signature = inspect.signature(operator.attrgetter(name)(jn))
    signature.bind(*positional, **dict.fromkeys(named))
    taken = [parameter.name for parameter in signature.parameters.values()]
    assert tuple(taken[: len(positional)]) == positional


def test_a_state_holds_what_it_is_promised_to():
    fields = [field.name for field in dataclasses.fields(jn.train.State)]
    assert fields == ["step", "params", "opt_state", "collections", "carry", "key", "ema", "loss_scale", "guard"]
