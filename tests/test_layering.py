"""Imports run down: every import of every module, also one inside a function, held against the order of the rooms."""
import ast
import glob
import os

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# From the top floor down, the rooms of a floor side by side; docs/design.md says what they are for. A room is a folder
# or a file; of two that hold a module the longer path has it. A module imports from its own room and from floors below.
FLOORS = (
    ('benchmarks', 'examples', 'scripts', 'studies', 'tools', 'third_party', 'sat/__main__.py'),
    ('sat/cli',),
    ('main.py', 'analysis', 'model_zoo.py', 'convert.py', 'inference-example.py', 'efficientnet/main.py',
     'efficientnet/table.py'),
    ('sat',),
    ('commands',),
    ('training',),
    ('evaluation',),
    ('weights/flags.py', 'zoo/fetch.py'),
    ('weights',),
    ('tables.py', 'zoo'),
    ('nets.py',),
    ('architectures',),
    ('adv_model.py',),
    ('training/optimizers', 'training/step', 'resnet_model.py', 'efficientnet', 'convnext', 'vit'),
    ('attacks', 'layers'),
    ('draws.py',),
    ('seeds.py', 'smooth_activations.py'),
    ('data',),
    ('third_party/zmq_ops', 'ranks', 'native/smooth_ops', 'native/jpeg_part', 'native/resampling'),
    ('native', 'settings'),
    ('files', 'machine'),
    ('machine/programs.py',),
)
HEIGHT = {room: len(FLOORS) - number for number, floor in enumerate(FLOORS) for room in floor}

GRAPHS = ('layers', 'resnet_model.py', 'efficientnet', 'convnext', 'vit')
# What a room must not know although it stands below.
UNKNOWN = {
    'attacks': ('third_party', 'data', 'ranks', 'native', 'native/smooth_ops', 'files', 'settings'),
    **dict.fromkeys(('nets.py', 'architectures'), ('attacks', 'data', 'files', 'third_party')),
    **dict.fromkeys(GRAPHS, ('attacks', 'third_party', 'data', 'ranks', 'files', 'settings')),
    **dict.fromkeys(('training/optimizers', 'training/step'), ('attacks', 'layers', 'data', 'ranks', 'files')),
    'training': GRAPHS + ('native', 'native/smooth_ops'),
    'evaluation': GRAPHS + ('native', 'native/smooth_ops'),
}


def find_modules():
    """Name, as it is imported, to path in the checkout, of all modules but the tests'."""
    names = {}
    for floor in FLOORS:
        for room in floor:
            at = os.path.join(ROOT, room)
            for path in [at] if room.endswith('.py') else glob.glob(os.path.join(at, '**', '*.py'), recursive=True):
                path = os.path.relpath(path, ROOT)
                names[path[:-len('.py')].replace('/__init__', '').replace('/', '.')] = path
    # tensorpack's users know this package by its own name.
    names.update({name[len('third_party.'):]: path for name, path in names.items() if '.zmq_ops' in name})
    return names


MODULES = find_modules()


def room_of(path):
    """The room that holds a module."""
    parts = path.split('/')
    return next(room for room in ('/'.join(parts[:end]) for end in range(len(parts), 0, -1)) if room in HEIGHT)


def imports_of(path):
    """Paths of this project's modules that a module imports."""
    with open(os.path.join(ROOT, path)) as f:
        tree = ast.parse(f.read())
    package = os.path.dirname(path).replace('/', '.')
    named = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            named += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = '.'.join(filter(None, [package if node.level else '', node.module]))
            named += ['{}.{}'.format(origin, alias.name) for alias in node.names]
    found = set()
    for name in named:
        while name and name not in MODULES:
            name = name.rpartition('.')[0]
        found.add(MODULES.get(name, path))
    return found - {path}


ARROWS = {path: imports_of(path) for path in sorted(set(MODULES.values()))}


def test_every_room_is_there_and_every_module_is_in_a_room():
    rooms = {room_of(path) for path in ARROWS}
    assert rooms == set(HEIGHT)
    found = [glob.glob(os.path.join(ROOT, pattern)) for pattern in ('*.py', '*/__init__.py')]
    assert {os.path.relpath(path, ROOT) for path in sum(found, [])} <= set(ARROWS)


@pytest.mark.parametrize('path', ARROWS)
def test_imports_run_down(path):
    here = room_of(path)
    for other in ARROWS[path]:
        there = room_of(other)
        assert there == here or HEIGHT[there] < HEIGHT[here], '{} imports {}, which stands above or beside it'.format(
            path, other)
        assert there not in UNKNOWN.get(here, ()), '{} must not know {}'.format(here, other)


def test_no_modules_import_each_other_in_a_circle():
    done, way = set(), []

    def follow(path):
        assert path not in way, ' -> '.join(way[way.index(path):] + [path])
        if path in done:
            return
        way.append(path)
        for other in sorted(ARROWS[path]):
            follow(other)
        done.add(way.pop())
    for path in ARROWS:
        follow(path)


def test_the_arrows_are_those_that_the_code_has():
    """Of a few, each found in another way: a module, a name of it, within a function, of a package, by a short name."""
    for path, other in (('architectures/resnets.py', 'resnet_model.py'), ('adv_model.py', 'attacks/pgd.py'),
                        ('main.py', 'commands/run.py'), ('resnet_model.py', 'layers/__init__.py'),
                        ('training/inputs.py', 'third_party/zmq_ops/__init__.py'),
                        ('third_party/zmq_ops/__init__.py', 'third_party/zmq_ops/wire.py')):
        assert other in ARROWS[path], path
