"""Coloured words: nothing of a text becomes markup or a command, and colours say which way and how much."""

import html.parser
import io
import re

from rich.console import Console

from jaxnets.interpret import coloured_html, coloured_text

NASTY = "<script>alert('x')</script> & \"[bold red]\" \x1b[31m"


class Reader(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)


def read(page):
    reader = Reader()
    reader.feed(page)
    return reader


def test_html_gives_every_text_back_and_no_tag_of_it():
    spans = [(0, 8, 1.0), (8, 13, -0.5), (20, 27, float("nan"))]
    page = coloured_html(NASTY, [(NASTY, NASTY, spans), ("empty", "", [])])
    reader = read(page)
    assert {tag for tag, _ in reader.tags} == {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "h1",
        "h2",
        "p",
        "span",
    }
    assert page.count("<script") == 0
    assert "".join(reader.text).count(NASTY) == 4
    titles = [attributes["title"] for tag, attributes in reader.tags if tag == "span"]
    assert titles == ["+1.0000", "-0.5000", "+nan"]


def test_colours_say_which_way_and_how_much():
    page = coloured_html("t", [("h", "good bad so", [(0, 4, 2.0), (5, 8, -2.0), (9, 11, 0.0)])])
    styles = [attributes["style"] for tag, attributes in read(page).tags if tag == "span"]
    colours = [tuple(map(int, re.search(r"rgb\((\d+),(\d+),(\d+)\)", style).groups())) for style in styles]
    assert colours == [(33, 102, 172), (214, 96, 77), (255, 255, 255)]


def test_the_terminal_shows_the_text_and_obeys_none_of_it():
    shown = coloured_text(NASTY, [(0, 8, 1.0), (9, 14, -1.0)])
    assert shown.plain == NASTY.replace("\x1b", "\ufffd")
    out = io.StringIO()
    Console(file=out, width=200, force_terminal=True, color_system="truecolor").print(shown)
    assert "\x1b[31m" not in out.getvalue()
    assert "48;2;33;102;172" in out.getvalue()
    assert "[bold red]" in re.sub(r"\x1b\[[\d;]*m", "", out.getvalue())
    assert coloured_text("plain", []).plain == "plain"
