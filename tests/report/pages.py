"""What a reader sees of a page."""

from html.parser import HTMLParser
from pathlib import Path


class Page(HTMLParser):
    """The text of a page, its headings, what it points at, and what its figures are said to show."""

    def __init__(self, path: Path):
        super().__init__()
        self.text, self.targets, self.headings, self.figures = "", [], [], []
        self._inside = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self._inside = tag
        self.targets += [found[name] for name in ("src", "href") if name in found]
        if tag == "svg":
            self.figures.append(found["aria-label"])

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside not in ("script", "style"):
            self.text += data
        if self._inside in ("h1", "h2"):
            self.headings.append(data)
