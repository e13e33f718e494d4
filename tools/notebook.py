"""Run a notebook and write it as Markdown, with what its cells print and show: docs/library.md of docs/library.ipynb.

It runs where it is started, which must have what the notebook asks for; pictures are written beside the Markdown.
"""
import argparse
import ast
import contextlib
import io
import os
from typing import List, NamedTuple, Optional

from files.atomic import write_bytes, write_text
from files.json_files import read_json
from files.typed import anything, list_of, one_of, record, text

_LONGEST = 1 << 16
_NOTEBOOK = record({'nbformat': one_of(4), 'cells': list_of(
    record({'cell_type': one_of('markdown', 'code'), 'source': list_of(text(_LONGEST), _LONGEST)}, others=anything),
    _LONGEST)}, others=anything)


class Cell(NamedTuple):
    """A cell that was run. is_code: or else text, which has no output. source (str). printed (str). png (bytes): the
    picture that its last line is, or None."""
    is_code: bool
    source: str
    printed: str = ''
    png: Optional[bytes] = None


def run(path: str) -> List[Cell]:
    """The cells of a notebook, run one after another in one namespace.

    Raises:
        ValueError: the file is no notebook. What a cell raises.
    """
    cells, names = [], {'__name__': '__main__'}
    for number, cell in enumerate(read_json(path, _NOTEBOOK)['cells'], 1):
        source = ''.join(cell['source'])
        found = _run_cell(source, 'cell {}'.format(number), names) if cell['cell_type'] == 'code' else ('', None)
        cells.append(Cell(cell['cell_type'] == 'code', source, *found))
    return cells


def _run_cell(source, name, names):
    """What a cell prints, the value of its last line with it, and that value's picture."""
    body, value = ast.parse(source, name), None
    last = body.body.pop() if body.body and isinstance(body.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(body, name, 'exec'), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), name, 'eval'), names)
    png = value._repr_png_() if hasattr(value, '_repr_png_') else None
    return printed.getvalue() + ('' if value is None or png else repr(value) + '\n'), png


def as_markdown(cells: List[Cell], stem: str) -> str:
    """A notebook's text; the pictures are stem-1.png and so on."""
    parts, pictures = [], 0
    for cell in cells:
        parts.append('```python\n{}\n```'.format(cell.source) if cell.is_code else cell.source)
        if cell.printed:
            parts.append('```text\n{}```'.format(cell.printed))
        if cell.png:
            pictures += 1
            parts.append('![What this cell shows]({}-{}.png)'.format(stem, pictures))
    return '\n\n'.join(parts) + '\n'


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('notebook', help='an .ipynb file; its Markdown and pictures are written beside it')
    path = parser.parse_args(argv).notebook
    base = os.path.splitext(path)[0]
    cells = run(path)
    for number, png in enumerate((cell.png for cell in cells if cell.png), 1):
        write_bytes('{}-{}.png'.format(base, number), png)
    write_text(base + '.md', as_markdown(cells, os.path.basename(base)))


if __name__ == '__main__':
    main()
