"""``sat completion``: a shell completes commands, flags, the words of flags, and published models, without Python."""
import shutil
import subprocess
import time

import pytest

from sat.cli import completion

# What Bash does before it asks: words are split at white space, = and :.
_ASKING = '''
source "$1"
while read -ra COMP_WORDS; do
  COMP_WORDS=("${COMP_WORDS[@]/#@EMPTY@/}"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
  _sat 2>/dev/null
  echo "${COMPREPLY[*]}"
done
'''
CASES = {
    'sat ': {'train', 'eval', 'analyze', 'zoo', 'convert', 'serve', 'table', 'completion'},
    'sat ev': {'eval'},
    'sat train --attack-e': {'--attack-epsilon'}, 'sat train --eval-d': set(),
    'sat train --arch ': {'ResNet', 'ResNetDenoise', 'ResNeXtDenoiseAll', 'CifarResNet', 'EfficientNet', 'ConvNeXt',
                          'ViT'},
    'sat train --arch=Vi': {'ViT'}, 'sat train --arch ViT --recipe re': {'revisiting-at'},
    'sat train --data images --attack m': {'momentum'}, 'sat train --activation-name=sil': {'silu'},
    'sat train --model-name vit-m': {'vit-m', 'vit-m-cvst'}, 'sat train --data im': {'images'},
    'sat eval zoo:Res50-si': {'Res50-silu', 'Res50-silu-299', 'Res50-silu-380'},
    'sat eval --load zoo:Res50-soft': {'Res50-softplus'}, 'sat eval we': {'weights.npz'},
    'sat eval zoo:Res50-silu --attack aut': {'autoattack'}, 'sat eval zoo:Res50-silu --data im': {'images'},
    'sat eval weights.npz --eval-d': {'--eval-directory'}, 'sat eval x --norm ': {'Linf', 'L2', 'L1'},
    'sat zoo l': {'list'}, 'sat zoo list Res50-soft': {'Res50-softplus'}, 'sat zoo verify --activation-n': {
        '--activation-name'},
    'sat convert weights --load zoo:R152-D': {'R152-Denoise'}, 'sat convert weights --keep a': {'averages'},
    'sat analyze sw': {'sweep'}, 'sat analyze sweep --eps': {'--epsilons'}, 'sat analyze sweep --arch C': {
        'CifarResNet', 'ConvNeXt'},
    'sat serve --sha': {'--shard'}, 'sat serve --augmentation ci': {'cifar'}, 'sat completion f': {'fish'}}


def split(line):
    """A line as Bash splits it for those who complete."""
    words = line.replace(':', ' : ').replace('=', ' = ').split()
    return words + ['@EMPTY@'] * line.endswith((' ', '=', ':'))


@pytest.fixture(scope='module')
def scripts(tmp_path_factory):
    folder = tmp_path_factory.mktemp('scripts')
    for shell in completion.SHELLS:
        (folder / shell).write_text(completion.script(shell))
    return folder


def test_bash_completes_commands_flags_words_files_and_models_at_once(scripts, tmp_path):
    (tmp_path / 'images').mkdir()
    (tmp_path / 'weights.npz').write_text('')
    began = time.monotonic()
    done = subprocess.run(['bash', '--norc', '-c', _ASKING, 'bash', str(scripts / 'bash')], cwd=tmp_path,
                          input='\n'.join(' '.join(split(line)) for line in CASES) + '\n', stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=60, env={'PATH': '/usr/bin:/bin'})
    assert done.stderr == ''
    found = dict(zip(CASES, (set(line.split()) for line in done.stdout.splitlines())))
    assert found == CASES
    # No program of this project has a hand in it: its Python is not on the path.
    assert (time.monotonic() - began) / len(CASES) < 0.5


@pytest.mark.parametrize('shell, option', [('zsh', '-n'), ('fish', '--no-execute')])
def test_the_other_shells_read_their_script(scripts, shell, option):
    if not shutil.which(shell):
        pytest.skip('there is no {} here'.format(shell))
    done = subprocess.run([shell, option, str(scripts / shell)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True)
    assert (done.returncode, done.stdout) == (0, '')


@pytest.mark.parametrize('shell', completion.SHELLS)
def test_each_script_has_the_flags_and_words(scripts, shell):
    text = (scripts / shell).read_text()
    flags = ('-l {}' if shell == 'fish' else '--{}').format
    for word in 'CifarResNet', 'revisiting-at', 'autoattack', 'zoo:Res50-silu', 'smoothrelu', flags('attack-epsilon'):
        assert word in text


def test_it_is_printed(capsys):
    assert completion.main(['fish']) is None
    assert capsys.readouterr().out == completion.script('fish')
