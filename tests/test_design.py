"""docs/design.md is true: what it names is there, and its rooms are those whose imports are held in order."""
import ast
import os
import re

import pytest

from test_layering import FLOORS

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
with open(os.path.join(ROOT, 'docs', 'design.md')) as page:
    TEXT = page.read()
CODE = re.findall(r'`([^`\n]+)`', re.sub(r'```.*?```', '', TEXT, flags=re.DOTALL))
NAMED = sorted(set(code for code in CODE if re.fullmatch(r'[\w./-]+\.py:[\w.]+', code)))
PATHS = sorted({code.split(':')[0] for code in CODE
                if re.fullmatch(r'[\w-]+(/[\w.-]*)+|[\w/-]+\.(py|h|toml|md)(:[\w.]+)?', code)})


def defined_in(body):
    """Name to node of what a list of statements defines, the branches of ``try`` included."""
    found = {}
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found[node.name] = node
        elif isinstance(node, ast.Assign):
            found.update((name.id, node) for target in node.targets for name in ast.walk(target)
                         if isinstance(name, ast.Name))
        elif isinstance(node, ast.AnnAssign):
            found[node.target.id] = node
        elif isinstance(node, ast.Try):
            found.update(defined_in(node.body))
    return found


@pytest.mark.parametrize('code', NAMED)
def test_what_is_named_is_defined_there(code):
    path, names = code.split(':')
    with open(os.path.join(ROOT, path)) as f:
        body = ast.parse(f.read()).body
    for name in names.split('.'):
        found = defined_in(body)
        assert name in found, '{} is not in {}; it has {}'.format(name, path, ', '.join(found))
        body = getattr(found[name], 'body', [])


@pytest.mark.parametrize('path', PATHS)
def test_what_is_named_is_there(path):
    assert os.path.exists(os.path.join(ROOT, path))


def test_the_ways_name_what_they_pass():
    for way in 'image', 'flag', 'checkpoint':
        section = TEXT.split('\n## The way of a{} {}\n'.format('n' * (way == 'image'), way))[1].split('\n## ')[0]
        rows = [row for row in section.splitlines() if row.startswith('| ')][1:]
        assert len(rows) >= 10 and all(re.search(r'`[\w./-]+\.py:[\w.]+`', row) for row in rows), way


def test_the_table_has_every_room_in_the_order_of_the_floors():
    rows = TEXT.split('\n## Rooms\n')[1].split('\n## ')[0].splitlines()
    listed = [code.rstrip('/') for row in rows if row.startswith('| `') for code in re.findall(
        r'`([^`]+)`', row.split('|')[1])]
    height = {room: number for number, floor in enumerate(FLOORS) for room in floor}
    assert sorted(listed) == sorted(height)
    assert [height[room] for room in listed] == sorted(height[room] for room in listed)
