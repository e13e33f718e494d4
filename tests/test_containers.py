"""The recipes of the images. `make test-containers` builds the Dockerfile's in Debian 12 and 13 and trains in it.

There is no container engine in it: images.py carries out the Dockerfile's steps.
"""
import fnmatch
import glob
import json
import os
import re
import subprocess

import pytest

import images
from images import ROOT

CHECKOUT = '/opt/smooth-adversarial-training'
NOBODY = '12345:12345'  # whom no system knows
DEBIANS = {'debian:12-slim': 'bookworm', 'debian:13-slim': 'trixie'}


def read(*path):
    with open(os.path.join(ROOT, *path)) as f:
        return f.read()


def git(*words):
    return subprocess.run(['git', *words], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


@pytest.fixture(scope='module')
def stages():
    return images.parse(read('Dockerfile'))[1]


@pytest.fixture(scope='module')
def definition():
    """[(section's first line, lines)] of Apptainer's definition; a header's first line is that of Bootstrap."""
    sections = []
    for line in read('containers', 'apptainer.def').splitlines():
        if re.match(r'%|Bootstrap:', line):
            sections.append((line, []))
        elif line.strip() and not line.startswith('#'):
            sections[-1][1].append(line.strip())
    return sections


# ----- the recipes as text -----

def test_a_dockerfile_is_parsed():
    defaults, parsed = images.parse('# A.\nARG BASE=b:1\n\nFROM ${BASE} AS first\nRUN one \\\n  two # three\n# no\n'
                                    'COPY a b c/\nFROM d\nCOPY --from=first /x /y\n')
    assert defaults == {'BASE': 'b:1'} and [stage[:2] for stage in parsed] == [('${BASE}', 'first'), ('d', '')]
    assert parsed[0].steps == [('RUN', 'one two # three'), ('COPY', 'a b c/')]
    assert [images.sources(step) for step in (parsed[0].steps[1], parsed[1].steps[0])] == [['a', 'b'], []]


def test_all_that_is_copied_is_known_to_git(stages):
    known = set(git('ls-files').split())
    for step in (step for stage in stages for step in stage.steps if step.name == 'COPY'):
        for source in images.sources(step):
            found = [os.path.relpath(path, ROOT) for path in glob.glob(os.path.join(ROOT, source))]
            assert found and all(path in known or any(name.startswith(path + '/') for name in known) or path == '.'
                                 for path in found), source


def test_the_files_that_the_environment_is_made_from_are_copied_before_it_is_made(stages):
    """What `make setup` makes anew when it changes, which its fingerprint says, must not be an old layer's."""
    copied = [source for step in stages[0].steps if step.name == 'COPY' for source in images.sources(step)]
    line = re.search(r'^fingerprint\(\).*?sha256sum', read('scripts', 'setup.sh'), re.DOTALL | re.MULTILINE).group()
    of_fingerprint = re.findall(r'(?:scripts|constraints|third_party|native)/[\w/]+|requirements[\w-]*', line)
    assert len(of_fingerprint) > 8
    for path in of_fingerprint:
        path = path.rstrip('/')
        if path != 'scripts/selfcheck':  # which the image runs at its own end
            assert any(source.startswith(path) or path.startswith(source + '/') for source in copied), path


def steps_of(lines):
    return re.findall(r'containers/install\.sh (\w+)', '\n'.join(lines))


def test_both_recipes_are_the_same_steps_of_one_script(stages, definition):
    docker = [steps_of(step.text for step in stage.steps if step.name == 'RUN') for stage in stages]
    apptainer = [steps_of(lines) for name, lines in definition if name == '%post']
    assert docker == apptainer == [['environment', 'compile'], ['programs', 'finish']]
    for stage in stages:  # there is nothing but these steps
        assert all(re.fullmatch(r'containers/install\.sh \w+', step.text) for step in stage.steps if step.name == 'RUN')
    for step in sum(docker, []):
        assert re.search(r'^{}\(\) {{'.format(step), read('containers', 'install.sh'), re.MULTILINE)


def test_both_recipes_agree_on_names(stages, definition):
    default = images.parse(read('Dockerfile'))[0]['BASE']
    assert all('BASE=' + default in lines for name, lines in definition if name == '%arguments')
    path = re.search(r'PATH=\S+', ' '.join(step.text for step in stages[1].steps if step.name == 'ENV')).group()
    assert dict(definition)['%environment'] == ['export ' + path]
    assert dict(definition)['%runscript'] == ['exec {}/containers/run.sh "$@"'.format(CHECKOUT)]
    assert stages[1].steps[-1] == ('ENTRYPOINT', '["{}/containers/run.sh"]'.format(CHECKOUT))
    assert all(stage.steps[[step.name for step in stage.steps].index('WORKDIR')].text == CHECKOUT for stage in stages)


def test_what_git_ignores_does_not_get_into_an_image():
    kept_out = read('.dockerignore').splitlines()
    for pattern in read('.gitignore').splitlines():
        # Git's patterns without a slash hold in every folder, Docker's only with **/ before them; those with one in
        # front hold at the root, as Docker's do without it.
        names = (pattern.strip('/'), '**/' + pattern.strip('/'))
        assert any(fnmatch.fnmatch(name, known) for known in kept_out for name in names), pattern


def test_scripts_can_be_started(stages):
    for name in ('install.sh', 'run.sh', 'bin/python'):
        assert os.access(os.path.join(ROOT, 'containers', name), os.X_OK)
    ended = subprocess.run([os.path.join(ROOT, 'containers', 'install.sh'), 'no-step'], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (2, 'install.sh: choose environment, compile, programs or finish\n')


# ----- an image's python and entry, with a made-up interpreter -----

@pytest.fixture
def image(tmp_path, monkeypatch):
    """function(words, folder) -> what the entry of an image with main.py and serve-data.py says that it starts."""
    checkout = tmp_path / 'checkout'
    for name in ('main.py', 'third_party/serve-data.py', 'containers/bin/python', 'containers/run.sh'):
        path = checkout / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(read(name).replace('/opt/venv/bin/python', str(tmp_path / 'python')))
        path.chmod(0o755)
    (tmp_path / 'python').write_text('#!/bin/sh\necho "$HOME" "$@"\n')
    (tmp_path / 'python').chmod(0o755)

    def start(*words, cwd=tmp_path, **environment):
        ended = subprocess.run([str(checkout / 'containers' / 'run.sh'), *words], cwd=cwd, capture_output=True,
                               text=True,
                               env={'PATH': '{}:{}'.format(checkout / 'containers' / 'bin', os.environ['PATH']),
                                    'HOME': str(tmp_path), **environment})
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.replace(str(tmp_path), 'T').split()
    return start


@pytest.mark.parametrize('words, started', [
    (['python', 'main.py', '--eval'], ['T/checkout/main.py', '--eval']),
    (['main.py', '--load', 'a b.py'], ['T/checkout/main.py', '--load', 'a', 'b.py']),
    (['serve-data.py', '--data', 'd'], ['T/checkout/third_party/serve-data.py', '--data', 'd']),
    (['python', 'third_party/serve-data.py'], ['T/checkout/third_party/serve-data.py']),
    (['sh', '-c', 'python main.py "$0"', 'x'], ['T/checkout/main.py', 'x']),
    (['python', '-m', 'analysis'], ['-m', 'analysis']),
    (['python', 'nowhere.py'], ['nowhere.py']),
    (['python'], []),
    ([], ['T/checkout/main.py', '--help'])])
def test_an_image_finds_its_programs_in_any_folder(image, words, started):
    assert image(*words) == ['T', *started]


def test_a_program_of_the_user_s_folder_goes_before_the_image_s(image, tmp_path):
    (tmp_path / 'main.py').write_text('')
    assert image('python', 'main.py')[1:] == ['main.py']


def test_a_user_without_a_home_gets_one_that_can_be_written(image, tmp_path):
    assert image('python', HOME='/nowhere', TMPDIR=str(tmp_path / 'tmp'))[0] == 'T/tmp'


# ----- the Dockerfile's image itself -----

TRAIN = '''
set -e
python serve-data.py --batch 8 --input-size 32 --workers 1 & server=$!
trap "kill $server" EXIT
mpirun --oversubscribe -np 2 -bind-to none python main.py --arch CifarResNet -d 8 --batch 8 --steps-per-epoch 10 \
  --epochs 1 --attack-iter 1 --eval-attack-iter 1 --eval-attack-step-size 4 --logdir "$1"
mpirun --oversubscribe -np 2 -bind-to none python main.py --eval --load "$1" --arch CifarResNet -d 8 --attack-iter 2 \
  --results-dir "$1-judged"
'''


def size_of(folder):
    return int(subprocess.run(['du', '-sm', folder], check=True, capture_output=True, text=True).stdout.split()[0])


@pytest.mark.containers
@pytest.mark.parametrize('base', DEBIANS)
def test_an_image_trains_and_judges_for_any_user_and_is_not_written_to(base, tmp_path):
    problem = images.NEEDED.missing()
    if problem:
        pytest.skip(problem)
    cache = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    os.makedirs(cache, exist_ok=True)
    debian, work = tmp_path / 'debian', tmp_path / 'work'
    commit = git('rev-parse', 'HEAD').strip()
    images.make_debian(DEBIANS[base], str(debian))
    built = images.Builder(str(tmp_path), {base: str(debian)}, kept=cache, BASE=base).build()
    print('{}: {} MB, of which Debian {} MB'.format(base, size_of(built.folder), size_of(debian)))
    work.mkdir()
    for user in (NOBODY, '0:0'):
        os.chown(work, *map(int, user.split(':')))
        run = work / ('run-of-' + user.split(':')[0])
        place = dict(outside=str(work), inside='/work', user=user, read_only=True)
        trained = built.start(['bash', '-c', TRAIN, 'train', './' + run.name], **place)
        assert trained.returncode == 0, trained.stdout
        assert [entry['global_step'] for entry in json.loads((run / 'stats.json').read_text())] == [10]
        results = json.loads((work / (run.name + '-judged') / 'results.json').read_text())
        assert results['args']['ranks'] == 2 and results['num_images'] == 299
        assert results['source'] == {'commit': commit, 'changed': None}
    for words, said in (['serve-data.py', '--help'], '--shard'), (['python', '-m', 'analysis', '--help'], 'sweep'):
        ended = built.start(words, **place)
        assert ended.returncode == 0 and said in ended.stdout, ended.stdout
