"""What the tests share. TensorFlow is imported inside the fixtures: tests that do without it start at once."""
import collections
import functools
import gc
import gzip
import json
import os
import signal
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FIXTURES = os.path.join(ROOT, 'tests', 'fixtures')

from machine.quiet_tensorflow import quieten_tensorflow

quieten_tensorflow()
os.environ.pop('SAT_DATA', None)  # tests name their data
# A job in a shell's background ignores Ctrl-C, as would all programs that it starts; tests end some of them so.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault('NVIDIA_TF32_OVERRIDE', '0')  # numbers are compared with float32 arithmetic

# The files that take longest, the longest first: where several processes share the files, one that began such a file
# last would work on alone. All others are shorter than these.
LONGEST = ['faults', 'training', 'serve_data', 'documented_commands', 'ranks', 'nets', 'frozen', 'autoattack',
           'adv_model', 'patch_networks', 'handshake', 'watching', 'judging', 'zmq_ops', 'card', 'update_precision',
           'evaluation', 'efficientnet', 'main', 'library']


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With ``--dist loadfile``: the longest files first, where pytest-xdist goes by their numbers of tests."""
    from xdist.scheduler import LoadFileScheduling

    class LongestFirst(LoadFileScheduling):
        def _assign_work_unit(self, node):
            for name in reversed(LONGEST):
                file = 'tests/test_{}.py'.format(name)
                if file in self.workqueue:
                    self.workqueue.move_to_end(file, last=False)
            super()._assign_work_unit(node)
    return LongestFirst(config, log) if config.getvalue('dist') == 'loadfile' else None


def pytest_collection_finish():
    """Leaves what is there by now, TensorFlow's modules and the tests, out of every later search for garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope='module', autouse=True)
def forget_graphs():
    """Behind each file, what Tensorpack and TensorFlow remember of every graph, and with that all of it."""
    yield
    for name, module in list(sys.modules.items()):
        if name.partition('.')[0] == 'tensorpack':
            for function in vars(module).values():
                for cell in getattr(function, '__closure__', None) or ():
                    if isinstance(cell.cell_contents, functools._lru_cache_wrapper):
                        cell.cell_contents.cache_clear()
    if 'tensorflow.python.framework.ops' in sys.modules:
        gradients = sys.modules['tensorflow.python.framework.ops'].gradient_registry
        for name in [name for name in gradients.list() if name.startswith('CustomGradient-')]:
            del gradients._registry[name]


def _fixture_path(name):
    return os.path.join(FIXTURES, name)


@pytest.fixture(scope='session')
def fixture_path():
    """function(file name) -> its path in tests/fixtures."""
    return _fixture_path


@pytest.fixture(scope='session')
def torch_path():
    """function(name) -> path of a file that PyTorch 2.13 has written."""
    return lambda name: _fixture_path(os.path.join('rat', 'torch', name))


@pytest.fixture(scope='session')
def load_json():
    """function(name of a .json or .json.gz file in tests/fixtures) -> its content."""
    def load(name):
        opener = gzip.open if name.endswith('.gz') else open
        with opener(_fixture_path(name), 'rt') as f:
            return json.load(f)
    return load


def pytest_terminal_summary(terminalreporter):
    """Says how much tests have looked at that count it, in their property 'looked at': a dict of names to numbers."""
    looked_at = collections.Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, 'when', None) == 'call':
                looked_at.update(dict(report.user_properties).get('looked at', {}))
    if looked_at:
        terminalreporter.write_line('looked at: '
                                    + ', '.join('{:,} {}'.format(n, name) for name, n in looked_at.items()))


@pytest.fixture
def graph():
    """A fresh default graph, in the mode that the programs run in: TF-1 behaviour with resource variables."""
    import tensorflow.compat.v1 as tf
    tf.disable_v2_behavior()
    tf.enable_resource_variables()
    with tf.Graph().as_default() as fresh:
        tf.set_random_seed(0)
        yield fresh


@pytest.fixture
def sess(graph):
    """A session on the fresh graph."""
    import tensorflow.compat.v1 as tf
    with tf.Session(graph=graph) as session:
        yield session


@pytest.fixture(scope='session')
def weights_rule():
    """The module tests/fixtures/weights_rule.py: weights, images and labels from names and shapes."""
    import weights_rule as module
    return module


@pytest.fixture(scope='session')
def load_rule_weights(weights_rule):
    """function(session): give every variable of the default graph the rule's value for its name and shape."""
    def load(session):
        import tensorflow.compat.v1 as tf

        from weights.match import load_into
        load_into(session, [(v, weights_rule.weight(v.op.name, v.shape.as_list()))
                                        for v in tf.global_variables()])
    return load


@pytest.fixture
def logged(caplog):
    """function() -> the lines that data/ has logged since ``caplog`` was cleared; other packages may log too."""
    return lambda: [entry.getMessage() for entry in caplog.records if entry.name.startswith('data.')]


@pytest.fixture
def few_blocks(monkeypatch):
    """Makes EfficientNets of three blocks, of which the second has a skip; returns flags for the least of them."""
    from efficientnet import scaling
    monkeypatch.setattr(scaling, 'STAGES', (scaling.Stage(2, 3, 1, 6, 64), scaling.Stage(1, 5, 2, 6, 96)))
    return ['--arch', 'EfficientNet', '--width-coefficient', '0.25', '--depth-coefficient', '1']


@pytest.fixture(scope='session')
def released_model():
    """function(row, data_format, ...) -> the model of a fixture row, as 'fair_ResNet-50' or
    'sat_ResNeXt-50-32x4d-silu': whose release, architecture, depth, for ResNeXt the groups, for SAT the activation; or
    as 'efficientnet-b0'."""
    def make(row, data_format, input_size=224):
        from networks import make_network
        layout = ['--data-format', data_format, '--input-size', str(input_size)]
        if row.startswith('efficientnet'):
            return make_network('--arch', 'EfficientNet', '--model-name', row, *layout)
        release, name = row.split('_', 1)
        arch, depth, *rest = name.split('-')
        flags = ['--depth', depth, '--recipe', 'feature-denoising' if release == 'fair' else 'sat']
        if release == 'sat':
            flags += ['--activation-name', rest[-1]]
        if arch == 'ResNeXt':
            group, width = rest[0].rstrip('d').split('x')
            arch, flags = 'ResNet', flags + ['--group', group, '--res2-bottleneck', width]
        return make_network('--arch', arch, *flags, *layout)
    return make


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Noise images of two classes, eleven for training and five, which are two batches, for validation."""
    from image_folders import make_noise_folder
    from small_runs import NUM_IMAGES
    return make_noise_folder(tmp_path_factory.mktemp('images'), {'train': NUM_IMAGES, 'val': 5}, 'ab')


@pytest.fixture(scope='module')
def train(data):
    """function(log directory, flags): train in this process, on a fresh graph, two epochs unless told otherwise."""
    from small_runs import start_training
    return functools.partial(start_training, data)
