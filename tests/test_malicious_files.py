"""Files made to do harm, before every reader of the package: nothing runs, nothing is written, one line is said."""

import ast
import contextlib
import gzip
import io
import json
import os
import pickle
import re
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import data, train
from jaxnets.data import decode, labelled, long_memory
from jaxnets.train import cli, trainer

ROOT = Path(__file__).parents[1]
BOMB = 16 << 20


class Canary:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def as_zip(members, **options):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def as_tar(outside):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, kind, link in (
            ("../slipped", tarfile.REGTYPE, ""),
            (f"{outside}/absolute", tarfile.REGTYPE, ""),
            ("link", tarfile.SYMTYPE, str(outside)),
            ("link/through", tarfile.REGTYPE, ""),
            ("hard", tarfile.LNKTYPE, "../victim"),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, link, 4 * (kind == tarfile.REGTYPE)
            archive.addfile(member, io.BytesIO(b"evil"))
    return file.getvalue()


def as_npz(array):
    file = io.BytesIO()
    np.savez(file, x=array)
    return file.getvalue()


def as_png(width, height):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes(1 << 20))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def as_safetensors(header, length=None):
    return struct.pack("<Q", len(header) if length is None else length) + header


PAYLOADS = {
    "pickle": lambda outside: pickle.dumps(Canary(outside / "canary")),
    "npz of objects": lambda outside: as_npz(np.array([Canary(outside / "canary")], object)),
    "PyTorch's zip": lambda outside: as_zip({"archive/data.pkl": pickle.dumps(Canary(outside / "canary"))}),
    "tar that climbs out": as_tar,
    "zip that climbs out": lambda outside: as_zip({"../slipped": "evil", f"{outside}/absolute": "evil"}),
    "gzip bomb": lambda outside: gzip.compress(bytes(BOMB), 1),
    "zip bomb": lambda outside: as_zip({"x": bytes(BOMB)}, compresslevel=1),
    "IDX bomb": lambda outside: gzip.compress(struct.pack(">HBB1I", 0, 8, 1, 3 << 30) + bytes(1 << 20), 1),
    "huge picture": lambda outside: as_png(30_000, 30_000),
    "huger picture": lambda outside: as_png(2**31 - 1, 2**31 - 1),
    "header of 4 EiB": lambda outside: as_safetensors(b"{}", 1 << 62),
    "header of 90 MB": lambda outside: as_safetensors(b"{}", 90_000_000),
    "header that nests": lambda outside: as_safetensors(b'{"a":' + b"[" * 100_000),
    "array of 4 TiB": lambda outside: as_safetensors(
        b'{"params/a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,0]}}'
    ),
    "arrays in arrays": lambda outside: as_safetensors(
        b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a/b":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
    ),
    "names that nest": lambda outside: as_safetensors(
        json.dumps({"/".join("a" * 20_000): {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}).encode()
    ),
    "a text that nests": lambda outside: b"[" * 100_000,
}


def classed(path):
    """A folder of images with this one in it."""
    folder = path.parent
    (folder / "train" / "cat").mkdir(parents=True)
    (folder / "test").symlink_to("train")
    path.rename(folder / "train" / "cat" / path.name)
    return folder


READERS = {
    "load_weights": ("w.safetensors", train.load_weights),
    "load_weights, a template": ("w.safetensors", lambda path: train.load_weights(path, {"a": jnp.zeros(2)})),
    "Best": ("best.safetensors", train.Best),
    "read_config": ("config.json", lambda path: train.read_config(path.parent, fields=("model",))),
    "Run": ("config.json", lambda path: train.Run(path.parent, {"steps": 1})),
    "read_tokenizer": ("tokenizer.json", data.read_tokenizer),
    "read_image": ("a.png", lambda path: data.read_image(path, (8, 8, 1))),
    "load_images": ("a.png", lambda path: data.load_images(classed(path))),
    "load_images, a file": ("a.npz", data.load_images),
    "read_idx": ("a.gz", decode.read_idx),
    "read_cifar10": ("a.tar.gz", decode.read_cifar10),
    "read_jpeg_archive": ("a.tar.xz", lambda path: decode.read_jpeg_archive(path, "train")),
    "load_labelled": ("a.tsv", data.load_labelled),
    "load_labelled, packed": ("a.jsonl.gz", data.load_labelled),
    "load_series": ("a.csv", data.load_series),
    "a line of numbers": ("a.csv", lambda path: long_memory.read_numbers(str(path))),
}
HARMLESS = {"load_text": ("a.txt", data.load_text), "read_json_lines": ("metrics.jsonl", train.read_json_lines)}
"""To these anything may be a text, or a line that is passed over."""


@pytest.fixture(scope="module")
def payloads(tmp_path_factory):
    """Each payload, and the folder that its canary would sing in."""
    outside = tmp_path_factory.mktemp("outside")
    return outside, {name: make(outside) for name, make in PAYLOADS.items()}


def everything(folder):
    """What lies there, but for the folders of `classed`."""
    paths = (path for path in folder.rglob("*") if path.name not in ("train", "test", "cat"))
    return sorted(path.read_bytes() if path.is_file() else b"" for path in paths)


@pytest.mark.parametrize("name", READERS)
def test_what_is_malicious_is_refused_in_a_line(payloads, tmp_path, monkeypatch, capfd, name):
    outside, contents = payloads
    filename, read = READERS[name]
    for payload, content in contents.items():
        folder = tmp_path / payload / "folder"
        folder.mkdir(parents=True)
        (tmp_path / payload / "here").mkdir()
        monkeypatch.chdir(tmp_path / payload / "here")
        (folder / filename).write_bytes(content)
        before = everything(tmp_path)
        with pytest.raises((ValueError, OSError)) as caught:
            read(folder / filename)
        said = str(caught.value)
        assert filename in said, payload
        assert "\n" not in said, payload
        assert re.search(
            "good copy|replace|remove|want|neither|add it|no run of this|is empty|convert it|correct it|take less", said
        ), said
        assert everything(tmp_path) == before, payload
    assert list(outside.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_a_text_that_unpacks_to_far_more_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(labelled, "_MAX_TEXT", 100)
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(b"good\t1\nbad\t0\n" * 50))
    with pytest.raises(ValueError, match=r"a\.tsv\.gz has more than 100 bytes of text: take less of it"):
        data.load_labelled(tmp_path / "a.tsv.gz")


@pytest.mark.parametrize("name", HARMLESS)
def test_what_any_text_may_be_read_by_does_no_harm(payloads, tmp_path, name):
    outside, contents = payloads
    filename, read = HARMLESS[name]
    for content in contents.values():
        (tmp_path / filename).write_bytes(content)
        with contextlib.suppress(ValueError):
            assert read(tmp_path / filename) == [] or name == "load_text"
    assert list(outside.iterdir()) == []
    assert list(tmp_path.iterdir()) == [tmp_path / filename]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model": ["mlp"], "classes": []}, r"config\.json has model \['mlp'\], wanted one of mlp"),
        ({"model": "mlp", "classes": 3}, r"config\.json has classes 3, which is none of this program's: put a good"),
        ([1, 2], "it holds no fields"),
    ],
)
def test_a_configuration_of_other_types_is_named(tmp_path, config, message):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        train.read_config(tmp_path, fields={"model": object, "classes": list}, choices={"model": ("mlp",)})


@pytest.mark.parametrize("tokenizer", [{"kind": "subword", "definition": {}}, {"kind": "char", "characters": 5}, [], 1])
def test_a_tokenizer_that_is_none_is_named(tmp_path, tokenizer):
    if tokenizer and tokenizer != 1 and tokenizer["kind"] == "subword":
        pytest.importorskip("tokenizers", reason="subwords want the package tokenizers")
    (tmp_path / "t.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ValueError, match=r"read_tokenizer: .*t\.json holds no tokenizer \(.*\): put a good copy there"):
        data.read_tokenizer(tmp_path / "t.json")


NAMES = ["../../x", "/etc/passwd", "a/../../b", "..", ".", "", "~", "-rf", "a\nb", "\x1b[2J", "a\0b", "\udcff"]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_run_lies_below_its_parent_whatever_its_name(tmp_path, monkeypatch, name):
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    folder = train.new_run(name)
    assert folder.parent == Path("runs")
    assert folder.name.isprintable()
    assert folder.name not in ("", ".", "..")
    train.Run(folder, {"steps": 1})
    assert [path.parent for path in tmp_path.rglob("config.json")] == [inside / folder]
    assert train.newest_run(name) == folder


def test_a_folder_that_can_be_none_is_refused_in_a_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("dangling").symlink_to(tmp_path / "nowhere")
    Path("loop").symlink_to("loop")
    for name in ("file", "file/deeper", "dangling", "loop", "x" * 300, "a\0b"):
        with pytest.raises((ValueError, OSError)) as caught:
            train.Run(trainer.earlier(Path(name), None, resume=True, read=train.read_config)[0], {"steps": 1})
        assert repr(name)[1:-1] in str(caught.value)
        assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "dangling", "loop"}


def test_links_in_a_run_folder_are_not_written_through(tmp_path):
    victim, folder = tmp_path / "victim", tmp_path / "run"
    victim.write_text("{}")
    folder.mkdir()
    for name in ("config.json", "metrics.jsonl", "weights.safetensors"):
        (folder / name).symlink_to(victim)
        (folder / f".{name}.{os.getpid()}.part{Path(name).suffix}").symlink_to(victim)
    run = train.Run(folder, {"steps": 1}, may_change=("steps",))
    train.JsonLines(run / "metrics.jsonl", step=0).write({"step": 1, "loss": 1.0})
    train.save_weights(run / "weights.safetensors", {"a": jnp.zeros(2)})
    assert victim.read_text() == "{}"
    assert [path.name for path in folder.iterdir() if path.is_symlink()] == []
    assert json.loads((folder / "config.json").read_bytes())["steps"] == 1


def test_a_terminal_is_told_nothing_by_a_name(capsys):
    name = "a\x1b[2J\r\udcff"
    cli.say(f"going on from {name}")
    cli.tell_each({name: "cat"}, False)
    cli.tell({"test": {"loss": 1.0}}, False, f"note\nrun: {name}")
    said = capsys.readouterr()
    shown = r"a\x1b[2J\r\udcff"
    assert said.err == f"going on from {shown}\n"
    assert said.out == f"{shown} cat\ntest: loss 1.0000\nnote\nrun: {shown}\n"


FORBIDDEN = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
RUNS = {"eval", "exec", "__import__", "extractall", "extract", "unpack_archive", "system", "popen"}
BY_NUMPY = {"load", "loadtxt", "genfromtxt", "fromregex"}
"""The first unpickles where it is told to; the others fetch addresses and unpack what is packed."""


@pytest.mark.parametrize("folder", ["jaxnets", "examples"])
def test_nothing_is_unpickled_unpacked_or_run(folder):
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            where = f"{path}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import):
                assert FORBIDDEN.isdisjoint(alias.name.partition(".")[0] for alias in node.names), where
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").partition(".")[0] not in FORBIDDEN, where
            elif isinstance(node, ast.keyword):
                assert node.arg not in ("allow_pickle", "shell"), where
            elif isinstance(node, ast.Call):
                called = getattr(node.func, "attr", getattr(node.func, "id", None))
                assert called not in RUNS, where
                assert called not in BY_NUMPY or getattr(node.func.value, "id", None) not in ("np", "numpy"), where
