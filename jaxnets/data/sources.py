"""Named data sets: their official addresses and checksums, and one call that puts a verified file on disk."""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ATTEMPTS = 4


@dataclass(frozen=True)
class RemoteFile:
    """A file by its address and its contents.

    Attributes:
      sha256: Every accepted checksum, that of the address first: copies may be the same data compressed anew.
      url: Where to download it; None if there is only `JAXNETS_DATA` to take it from.
    """

    sha256: tuple[str, ...]
    url: str | None = None


@dataclass(frozen=True)
class Source:
    """A named data set: its files by name, and its licence."""

    name: str
    files: Mapping[str, RemoteFile]
    licence: str


def fetch(source: Source, filename: str) -> Path:
    """Returns the path of a file of a source, its checksum verified.

    With the environment variable `JAXNETS_DATA` set, the file is `$JAXNETS_DATA/<source>/<filename>` and nothing is
    downloaded. Otherwise it is downloaded once into the user's cache (`JAXNETS_CACHE` names another folder): resumed
    where an interrupted download stopped, verified, then moved into place in one step.

    Raises:
      ValueError: If the source has no such file, or its checksum is wrong.
      FileNotFoundError: If `JAXNETS_DATA` lacks the file, or it is unset and the file has no address.
      ConnectionError: If the address cannot be reached.
      OSError: If the cache cannot be written.
    """
    if filename not in source.files:
        raise ValueError(f"fetch: {source.name} has no file {filename!r}, only {', '.join(source.files)}")
    file = source.files[filename]
    if (path := local_path(source, filename)) is not None:
        if not path.is_file():
            origin = f" (from {file.url})" if file.url else ""
            raise FileNotFoundError(
                f"fetch: {path} is missing: put {filename} of {source.name} there{origin}, or correct JAXNETS_DATA"
            )
        if (found := _sha256(path)) not in file.sha256:
            raise ValueError(
                f"fetch: {path} has sha256 {found} but {source.name} wants {' or '.join(file.sha256)}: "
                "the file is damaged or another version, replace it"
            )
        return path
    if file.url is None:
        raise FileNotFoundError(
            f"fetch: {filename} of {source.name} has no address to download it from: "
            f"set JAXNETS_DATA to the folder that holds {source.name}/{filename}"
        )
    return _download(source.name, filename, file, file.url)


def local_path(source: Source, filename: str) -> Path | None:
    """Where `JAXNETS_DATA` expects the file, present or not; None where the variable is unset."""
    root = os.environ.get("JAXNETS_DATA")
    return Path(root).expanduser() / source.name / filename if root else None


def _download(name: str, filename: str, file: RemoteFile, url: str) -> Path:
    import pooch
    import requests

    folder = Path(os.environ.get("JAXNETS_CACHE") or pooch.os_cache("jaxnets")).expanduser() / name
    path, partial = folder / filename, folder / f".{filename}.part"
    store = pooch.create(folder, base_url="", registry={filename: file.sha256[0]}, urls={filename: url})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / f".{filename}.lock"):
            if path.is_file() and _sha256(path) in file.sha256:
                return path
            resumed = partial.exists()
            try:
                store.fetch(filename, downloader=_Resuming(partial))
            except ValueError:
                if not resumed:
                    raise
                # The part left from earlier belonged to another version of the file: once more, from its start.
                store.fetch(filename, downloader=_Resuming(partial))
    except requests.RequestException as error:
        cause: BaseException = error
        while cause.__context__ is not None:  # the system's own words, under what each library wrapped around them
            cause = cause.__context__
        reason = " ".join(str(cause).split())
        raise ConnectionError(
            f"fetch: cannot download {url} ({reason}): check the network, or set JAXNETS_DATA to a folder that "
            f"holds {name}/{filename}"
        ) from error
    except ValueError:
        raise ValueError(
            f"fetch: {url} does not have the sha256 {file.sha256[0]} that {name} wants: the file at the address has "
            f"changed or something on the way alters it; put a good copy at {path}"
        ) from None
    except OSError as error:
        raise OSError(f"fetch: cannot write {path} ({error}): set JAXNETS_CACHE to a writable folder") from error
    return path


class _Resuming:
    """A downloader for pooch that collects a file in `partial`, where an interruption leaves what has come so far."""

    def __init__(self, partial: Path):
        self.partial = partial

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        import requests

        passing = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
        for attempt in range(_ATTEMPTS):
            try:
                self._receive(url)
                break
            except passing:
                if attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(attempt + 1)
        os.replace(self.partial, output_file)

    def _receive(self, url: str) -> None:
        import requests
        import urllib3

        offset = self.partial.stat().st_size if self.partial.exists() else 0
        # Identity: a Range counts the bytes of the file itself, and the checksum is of the file as it lies there.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
        with requests.get(url, headers=headers, stream=True, timeout=(10, 60)) as response:
            served_from = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
            if response.status_code == 416 or (response.status_code == 206 and served_from != str(offset)):
                self.partial.unlink(missing_ok=True)
                raise requests.ConnectionError(f"the server cannot go on from byte {offset}")
            response.raise_for_status()
            resumes = response.status_code == 206
            try:
                with self.partial.open("ab" if resumes else "wb") as out, _progress(response, offset * resumes) as tick:
                    for chunk in response.raw.stream(1 << 16, decode_content=False):
                        tick(out.write(chunk))
            except urllib3.exceptions.HTTPError as error:
                raise requests.ConnectionError(error) from error


@contextlib.contextmanager
def _progress(response: Any, done: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error while a file comes, if that is a terminal; gives the function to call with new bytes."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    shown = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*shown, console=console, transient=True, disable=not console.is_terminal) as bar:
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        task = bar.add_task(response.url.rpartition("/")[2], total=total, completed=done)
        yield lambda count: bar.advance(task, count)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lets one process at a time through; where the system has no flock, the checksum alone guards."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _mnist_like(base: str, train_x: tuple[str, ...], train_y: str, test_x: str, test_y: str) -> dict[str, RemoteFile]:
    checksums = {
        "train-images-idx3-ubyte.gz": train_x,
        "train-labels-idx1-ubyte.gz": (train_y,),
        "t10k-images-idx3-ubyte.gz": (test_x,),
        "t10k-labels-idx1-ubyte.gz": (test_y,),
    }
    return {name: RemoteFile(sha256, f"{base}/{name}") for name, sha256 in checksums.items()}


_SST2 = (
    "https://raw.githubusercontent.com/clairett/pytorch-sentiment-classification/"
    "457ffd83de90a9d6d472d8ffc31bbffe40a8b236/data/SST2"
)

SOURCES: Mapping[str, Source] = {
    source.name: source
    for source in (
        Source(
            "mnist",
            _mnist_like(
                "https://storage.googleapis.com/cvdf-datasets/mnist",
                (
                    "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                    # The same images (md5 6bbc9ace898e44ae57da46a324031adb once unpacked), compressed anew.
                    "71524e2cd1ad2968737f7f2f2ff69cbfc32df8ccddff51593f7cb2d4e0eb5b64",
                ),
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
            licence="CC BY-SA 3.0",
        ),
        Source(
            "fashion_mnist",
            _mnist_like(
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
                ("3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",),
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
            licence="MIT",
        ),
        Source(
            "cifar10",
            {
                "cifar-10-binary.tar.gz": RemoteFile(
                    ("c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",),
                    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                )
            },
            licence="no formal licence; cite Krizhevsky 2009",
        ),
        Source(
            "cifar10_jpeg",
            {
                "cifar10_train_jpeg.tar.xz": RemoteFile(
                    ("ca2880616a18c2faf0522d3396bba8ebb9e8131b84de110c3710f43b70a7df09",)
                ),
                "cifar10_test_jpeg.tar.xz": RemoteFile(
                    ("2a3717f26fd8c2d282ebc9dec9397e3cc1879abcc0def2cdfb89fc6ee99ea581",)
                ),
            },
            licence="no formal licence; cite Krizhevsky 2009",
        ),
        Source(
            "tiny_shakespeare",
            {
                "input.txt": RemoteFile(
                    ("86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",),
                    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
                ),
                "input.txt.gz": RemoteFile(("13125fe8f49092165d7d489e3944db52d1ba546e64a60080cc9523bcd0c5e46a",)),
            },
            licence="public domain",
        ),
        Source(
            "sst2",
            {
                "train.tsv": RemoteFile(
                    ("ec192f833a64da08f475488a77b0d0b47db47acd0f458bd18433fc793b569920",), f"{_SST2}/train.tsv"
                ),
                "dev.tsv": RemoteFile(
                    ("eddea6b39e601dd4e7a672b53cc40fdf6019fa80522f351206c24340ca5d9359",), f"{_SST2}/dev.tsv"
                ),
                "test.tsv": RemoteFile(
                    ("831169c7e2e429d6026e1bdbb542f33b636e3e596caad9602ebc953c205928b7",), f"{_SST2}/test.tsv"
                ),
                # The same lines, packed.
                "sst2_train.tsv.gz": RemoteFile(("6bd7ceeeb9eac01b55c854be40e71bdf4c54849638217b8b4fc2408bf17843af",)),
                "sst2_dev.tsv.gz": RemoteFile(("190402b0a0144b832cd9bd994dc693cff2f6aee24c22a5437938fc3564d51d33",)),
                "sst2_test.tsv.gz": RemoteFile(("e33b978bf9561af553946a8e7f30f945c46ca74a0c1e44c7b5a4cfc17ce22db3",)),
            },
            licence="none stated; cite Socher et al. 2013",
        ),
        Source(
            "imdb",
            {
                "aclImdb_v1.tar.gz": RemoteFile(
                    ("c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe",),
                    "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
                ),
                # The same reviews, a line each.
                "imdb_train.jsonl.gz": RemoteFile(
                    ("ca4e8a315b5f2bff5e1b989a998bd6f5d2bc20cb34dcadfff99703b6a166dde4",)
                ),
                "imdb_test.jsonl.gz": RemoteFile(("179fed5d72669901844c05941865481ce413ab018848331bd3b1b35537466569",)),
            },
            licence="no formal licence; cite Maas et al. 2011",
        ),
        Source(
            "ett",
            {
                "ETTh1.csv": RemoteFile(
                    ("f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066",),
                    "https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small/ETTh1.csv",
                ),
                "ETTh1.csv.gz": RemoteFile(("f1141f82f9d46968f05afa77ba16abfc4f790fe07583f9de06bb685b29a5411f",)),
            },
            licence="CC BY-ND 4.0",
        ),
    )
}
"""The data sets that `fetch` knows, by name."""
