"""Texts with words coloured by what they added, for a terminal and as HTML."""

import html
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rich.text import Text

Span = tuple[int, int, float]
"""From which character to before which, and what the word there added."""

_FOR, _AGAINST = (33, 102, 172), (214, 96, 77)
"""Blue and red that people tell apart who do not see all colours."""


def coloured_text(text: str, spans: Sequence[Span]) -> "Text":
    """The text for a terminal, of the package rich: words on blue spoke for, those on red against, the deeper the more.

    Control characters are shown as U+FFFD: a text must not command the terminal.

    >>> coloured_text("not bad", [(0, 3, -1.0), (4, 7, 2.0)]).plain
    'not bad'
    """
    from rich.text import Text

    shown = Text("".join("\ufffd" if _is_control(sign) else sign for sign in text))
    for begin, end, share in _shares(spans):
        red, green, blue = _blend(share, paper=0)
        shown.stylize(f"bold white on rgb({red},{green},{blue})" if abs(share) > 0.05 else "", begin, end)
    return shown


def coloured_html(title: str, rows: Iterable[tuple[str, str, Sequence[Span]]]) -> str:
    """A page of texts, each with a heading, coloured like `coloured_text`; a word's number shows under the pointer.

    All that is given is escaped: no text can become a part of the page.

    Args:
      title: Of the page.
      rows: Heading, text and spans of each.

    >>> "&lt;b&gt;" in coloured_html("words", [("<b>", "a < b", [(0, 1, 1.0)])])
    True
    """
    parts = [
        "<!doctype html>",
        f'<html><head><meta charset="utf-8"><title>{html.escape(title)}</title>',
        "<style>body{font:16px/1.7 system-ui,sans-serif;max-width:50em;margin:2em auto;padding:0 1em;color:#22313f}"
        "h2{font-size:1em;margin:1.6em 0 .2em}p{margin:0;white-space:pre-wrap;overflow-wrap:anywhere}"
        "span{border-radius:.2em}</style></head><body>",
        f"<h1>{html.escape(title)}</h1>",
    ]
    for heading, text, spans in rows:
        parts.append(f"<h2>{html.escape(heading)}</h2><p>{_marked(text, spans)}</p>")
    return "\n".join([*parts, "</body></html>", ""])


def _marked(text: str, spans: Sequence[Span]) -> str:
    parts, at = [], 0
    for (begin, end, value), (_, _, share) in zip(spans, _shares(spans), strict=True):
        red, green, blue = _blend(share, paper=255)
        style = f"background:rgb({red},{green},{blue});color:{'#fff' if abs(share) > 0.6 else 'inherit'}"
        word = html.escape(text[begin:end])
        parts += [html.escape(text[at:begin]), f'<span style="{style}" title="{value:+.4f}">{word}</span>']
        at = end
    return "".join([*parts, html.escape(text[at:])])


def _shares(spans: Sequence[Span]) -> list[Span]:
    """The spans with values from -1 to 1, the largest of which is 1 or -1."""
    largest = max((abs(value) for *_, value in spans if np.isfinite(value)), default=0) or 1
    return [(begin, end, float(np.nan_to_num(value / largest))) for begin, end, value in spans]


def _blend(share: float, *, paper: int) -> tuple[int, int, int]:
    """From the paper's grey to the full colour."""
    colour, part = (_FOR if share > 0 else _AGAINST), min(abs(share), 1)
    red, green, blue = (round(paper + part * (channel - paper)) for channel in colour)
    return red, green, blue


def _is_control(sign: str) -> bool:
    return sign != "\n" and (ord(sign) < 32 or 127 <= ord(sign) < 160)
