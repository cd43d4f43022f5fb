"""Docstrings of the running interpreter's standard library, by package."""

import ast
import functools
import gc
import platform
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

_PACKAGES = ("asyncio", "decimal", "email", "importlib", "logging", "multiprocessing", "unittest", "xml")
_ELSEWHERE = {"decimal": "_pydecimal.py"}
_LEAST_WORDS = 5
_NAMES = re.compile(rf"\b(?:{'|'.join(_PACKAGES)})\b", re.IGNORECASE)
"""What would give a package away at once, and leave nothing to learn."""
_DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def by_package() -> tuple[tuple[str, str], ...]:
    """Docstrings of five words or more, each once, and the package it is of; the packages' names in them are masked.

    Raises:
      OSError: If the standard library's source is not there.

    >>> len({package for _, package in by_package()})
    8
    """
    library = Path(sysconfig.get_path("stdlib"))
    found: dict[str, str] = {}
    for package in _PACKAGES:
        path = library / _ELSEWHERE.get(package, package)
        files = [path] if path.is_file() else sorted(path.rglob("*.py"))
        if not files:
            raise OSError(f"load_labelled: {path} is not there: docstrings want the standard library's source")
        for text in (text for file in files for text in _docstrings(file)):
            found.setdefault(_NAMES.sub("_", text), package)
    return tuple(found.items())


def note() -> str:
    """What figures on them hold for."""
    return f"docstrings of Python {platform.python_version()}'s standard library"


def _docstrings(file: Path) -> Iterator[str]:
    for node in ast.walk(_parsed(file)):
        if isinstance(node, _DOCUMENTED) and (text := ast.get_docstring(node)) and len(text.split()) >= _LEAST_WORDS:
            yield text


def _parsed(file: Path) -> ast.Module:
    collects = gc.isenabled()
    gc.disable()  # Python 3.11 raises SystemError where a finalizer runs meanwhile that formats a traceback
    try:
        return ast.parse(file.read_bytes())
    finally:
        if collects:
            gc.enable()
