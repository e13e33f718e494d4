"""A page of blocks, as one self-contained HTML file and as Markdown."""
import base64
import html
from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Tuple, Type

DPI = 160  # dots an inch of a ``Figure``


class Section(NamedTuple):
    """A heading."""
    text: str


class Text(NamedTuple):
    """A paragraph."""
    text: str


class Verdict(NamedTuple):
    """A finding that must be seen: good news or bad, in words."""
    good: bool
    text: str


class Table(NamedTuple):
    """Cells of str; the first column names the rows. ``mark``: words to show as good, and as bad."""
    header: List[str]
    rows: List[List[str]]
    caption: str
    mark: Tuple[str, ...] = ()


class Figure(NamedTuple):
    """A picture of ``DPI``. name: of its file beside the Markdown. content: a PNG file. alt: what it shows."""
    name: str
    content: bytes
    alt: str
    caption: str


class Code(NamedTuple):
    """Text to copy, as it is. ``summary``: where given, it is folded away under this line."""
    text: str
    summary: str = ''


class Markup(NamedTuple):
    """HTML as it is, in which its maker has made all text ``safe``; in Markdown too."""
    text: str


# The page takes the reader's own fonts: nothing is loaded from elsewhere.
_STYLE = """
:root { --paper: #fff; --ink: #1c2330; --soft: #566072; --line: #d7dce3; --pale: #f5f7f9; --good: #0b6b3a;
  --bad: #a3260b; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: var(--paper);
  font: 1rem/1.55 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.2rem 1.5rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .7rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
p { margin: .6rem 0; max-width: 48rem; }
p.lead { color: var(--soft); font-size: 1.02rem; max-width: none; }
p.verdict { max-width: none; margin: .8rem 0; padding: .7rem 1rem; border-left: .35rem solid; background: var(--pale); }
.good { color: var(--good); } .bad { color: var(--bad); }
p.verdict.good, p.verdict.bad { border-color: currentColor; }
p.verdict span { color: var(--ink); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: .8rem 0;
  font-size: .94rem; font-variant-numeric: tabular-nums; }
caption { caption-side: bottom; text-align: left; color: var(--soft); font-size: .88rem; padding-top: .5rem; }
th, td { text-align: left; vertical-align: top; padding: .42rem .7rem; border-bottom: 1px solid var(--line); }
thead th { border-bottom: 2px solid var(--ink); white-space: nowrap; }
tbody th { font-weight: 600; white-space: nowrap; }
td b { white-space: nowrap; }
figure { margin: 1rem 0; }
figure img { max-width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: .88rem; margin-top: .4rem; max-width: 48rem; }
pre { background: var(--pale); padding: .8rem 1rem; overflow-x: auto; font: .84rem/1.5 ui-monospace, "DejaVu Sans Mono",
  monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; color: var(--soft); }
@media print {
  html { font-size: 10pt; }
  tbody th { white-space: normal; }
  main { max-width: none; padding: 0; }
  h2 { break-after: avoid; }
  figure, table, p.verdict { break-inside: avoid; }
  p.verdict, pre { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
}
"""


def as_html(title: str, lead: str, blocks: Sequence[Any], style: str = '', head: str = '') -> str:
    """One file with everything in it: styles, and pictures as data.

    Args:
        title, lead (str): heading, and the line below it. blocks (sequence of the classes above).
        style (str): CSS behind the page's own. head (str): further elements of the head, as HTML.
    """
    body = ['<h1>{}</h1>'.format(safe(title)), '<p class="lead">{}</p>'.format(safe(lead))]
    body += map(as_html_block, blocks)
    return '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n' \
           '<meta name="viewport" content="width=device-width, initial-scale=1">\n' \
           '<title>{}</title>\n{}<style>{}</style>\n</head>\n<body>\n<main>\n{}\n</main>\n</body>\n</html>\n'.format(
               safe(title), head, _STYLE + style, '\n'.join(body))


def as_html_block(block: Any) -> str:
    """One of the classes above as an element."""
    return _HTML[type(block)](block)


def as_markdown(title: str, lead: str, blocks: Sequence[Any]) -> str:
    """The same in Markdown; pictures are files of their names beside it."""
    return '\n\n'.join(['# ' + title, lead] + [_MARKDOWN[type(block)](block) for block in blocks]) + '\n'


def safe(text: str) -> str:
    """Text as HTML, in an element or in an attribute."""
    return html.escape(text, quote=True)


def data_uri(content: bytes) -> str:
    """A PNG file in the page itself."""
    return 'data:image/png;base64,' + base64.b64encode(content).decode()


def _width(content: bytes) -> int:
    """Of a figure's PNG file, in a browser's pixels."""
    return round(int.from_bytes(content[16:20], 'big') * 96 / DPI)


def _html_verdict(block: Verdict) -> str:
    return '<p class="verdict {0}"><b>{1}</b> <span>{2}</span></p>'.format(
        'good' if block.good else 'bad', 'Pass.' if block.good else 'Flag.', safe(block.text))


def _html_table(block: Table) -> str:
    def cell(text: str) -> str:
        marked = dict(zip(block.mark, ('good', 'bad'))).get(text.split(':')[0])
        if not marked:
            return safe(text)
        word, _, rest = text.partition(':')
        return '<b class="{}">{}</b>{}'.format(marked, safe(word), safe((':' if rest else '') + rest))
    head = ''.join('<th scope="col">{}</th>'.format(safe(text)) for text in block.header)
    rows = ['<tr><th scope="row">{}</th>{}</tr>'.format(
        safe(row[0]), ''.join('<td>{}</td>'.format(cell(text)) for text in row[1:])) for row in block.rows]
    return '<div class="scroll"><table>\n<caption>{}</caption>\n<thead><tr>{}</tr></thead>\n<tbody>\n{}\n</tbody>\n' \
           '</table></div>'.format(safe(block.caption), head, '\n'.join(rows))


def _html_figure(block: Figure) -> str:
    return '<figure><img src="{}" width="{}" alt="{}"><figcaption>{}</figcaption></figure>'.format(
        data_uri(block.content), _width(block.content), safe(block.alt), safe(block.caption))


def _html_code(block: Code) -> str:
    code = '<pre><code>{}</code></pre>'.format(safe(block.text))
    return '<details><summary>{}</summary>{}</details>'.format(safe(block.summary), code) if block.summary else code


_Written = Dict[Type[Any], Callable[[Any], str]]

_HTML: _Written = {
    Section: lambda block: '<h2>{}</h2>'.format(safe(block.text)),
    Text: lambda block: '<p>{}</p>'.format(safe(block.text)),
    Verdict: _html_verdict, Table: _html_table, Figure: _html_figure, Code: _html_code,
    Markup: lambda block: block.text}


def _markdown_table(block: Table) -> str:
    rows = [block.header, ['---'] * len(block.header)] + block.rows
    lines = ['| {} |'.format(' | '.join(cell.replace('|', '\\|') for cell in row)) for row in rows]
    return '\n'.join(lines) + '\n\n' + block.caption


def _markdown_code(block: Code) -> str:
    return (block.summary + ':\n\n' if block.summary else '') + '```\n{}\n```'.format(block.text)


_MARKDOWN: _Written = {
    Section: lambda block: '## ' + block.text,
    Text: lambda block: block.text,
    Verdict: lambda block: '**{}** {}'.format('Pass.' if block.good else 'Flag.', block.text),
    Table: _markdown_table,
    Figure: lambda block: '![{}]({})\n\n{}'.format(block.alt.replace('[', '(').replace(']', ')'), block.name,
                                                  block.caption),
    Code: _markdown_code,
    Markup: lambda block: block.text}
