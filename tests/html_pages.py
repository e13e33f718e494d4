"""Reading the pages that the programs write."""
import html.parser

# Elements without an end tag.
VOID = ('meta', 'img', 'br')


class Page(html.parser.HTMLParser):
    """Elements, their text, and whether every element is closed where it should be."""

    def __init__(self, content):
        super().__init__()
        self.open, self.elements, self.text = [], [], []
        self.feed(content)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != 'style':
            self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]
