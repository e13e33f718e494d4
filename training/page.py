"""index.html in a run's log directory: what is trained, how far it is, its curves and a strip of attacked images."""
import os
import shlex
import time

from tensorpack.callbacks import Callback
from tensorpack.utils import logger

from files import charts
from files.atomic import write_text
from files.pages import Code, Markup, Section, Table, Text, as_html
from ranks.end import reason
from training import page_parts
from training.epochs import read_epochs
from training.page_parts import FINISHED, RUNNING, STOPPED

PAGE = 'index.html'
RELOADED_EVERY = 60  # seconds, while the run goes on
_HEAD = '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; style-src ' \
        '\'unsafe-inline\'">\n'
_STYLE = charts.STYLE + """
:root { color-scheme: light dark; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14181f; --ink: #e6e9ee; --soft: #a3adba; --line: #333b47; --pale: #1d232c; --good: #58c08a;
    --bad: #ff9274; --c0: #5cb3ea; --c1: #ff9a4d; --c2: #3fc69a; --c3: #e58fbd; --c4: #e0b040; --c5: #aeb8c4; }
  a { color: var(--c0); }
}
h1 { overflow-wrap: anywhere; }
main { padding: 1.6rem 1.2rem 3rem; max-width: 68rem; }
.state { background: var(--pale); padding: .9rem 1.1rem; border-left: .35rem solid var(--c0); margin: 1.2rem 0; }
.state.finished { border-color: var(--good); } .state.stopped { border-color: var(--bad); }
.state p { margin: .2rem 0; max-width: none; }
.state progress { width: 100%; height: .9rem; margin: .4rem 0 0; display: block; accent-color: var(--c0); }
.soft { color: var(--soft); font-size: .92rem; }
.strip { display: flex; flex-wrap: wrap; gap: 1.1rem; }
.strip figure { margin: 0; width: 8.6rem; font-size: .88rem; line-height: 1.35; }
.strip img { width: 8.6rem; height: 8.6rem; display: block; margin: 0 0 .25rem; image-rendering: pixelated; }
.strip img.smooth { image-rendering: auto; }
.strip p { margin: 0 0 .5rem; overflow-wrap: anywhere; }
details td { white-space: nowrap; } details thead th { white-space: normal; vertical-align: bottom; }
details caption { display: none; }
"""


class RunPage(Callback):
    """Writes the page before the first step, after each epoch, as a listener of ``FollowEpochs``, and at the run's end;
    on the first rank. It asks no other rank for anything, and where it cannot be written there is a warning.

    Args:
        about (About). folder (str): log directory.
        samples (DrawSamples): set up before, or None in a run without evaluations.
        ends: () -> whether the run ends before its last epoch.
    """

    def __init__(self, about, folder, samples=None, ends=lambda: False):
        self.about, self.folder, self.samples, self.ends = about, folder, samples, ends
        self._begun = False

    def _before_train(self):
        self._begun = True
        self(read_epochs(self.folder))

    def __call__(self, epochs):
        self._write(epochs, FINISHED if self._is_done(epochs) else RUNNING)

    def _after_train(self):
        epochs = read_epochs(self.folder) if self._begun else []
        if self._begun and not self._is_done(epochs):
            self._write(epochs, STOPPED)

    def _is_done(self, epochs):
        return self.ends() or bool(epochs) and epochs[-1].number >= self.about.epochs

    def _write(self, epochs, state):
        # References for all that is not ASCII: whatever the encoding of this process, and for names that are no text.
        page = compose(self.about, self.folder, epochs, state, self.global_step, self.samples, time.time())
        try:
            write_text(os.path.join(self.folder, PAGE), page.encode('ascii', 'xmlcharrefreplace').decode())
        except OSError as error:  # a checkpoint is worth more than its picture
            logger.warning('{} cannot be written: {}; the run goes on'.format(PAGE, reason(error)))


def compose(about, folder, epochs, state, step, samples, now):
    """The page as HTML.

    Args:
        about (About). folder (str): log directory. epochs (list of Epoch): so far.
        state (str): RUNNING, FINISHED or STOPPED. step (int): training steps so far.
        samples (DrawSamples): or None. now (float): time of writing, in seconds since 1970.
    """
    blocks = [Markup(page_parts.state(about, epochs, state, step, now))]
    curves = page_parts.curves(about, epochs)
    if curves:
        blocks += [Section('Curves'), Markup('<div class="charts">{}</div>'.format(''.join(curves)))]
    if samples is not None:
        blocks += [Section('The same images at each evaluation'), Markup(page_parts.strip(about, samples))]
    blocks.append(Section('Flags'))
    if about.differing:
        blocks.append(Table(['flag', 'here', 'usual'], [list(row) for row in about.differing],
                            'What decides the training and is not the usual, that of --recipe {} or of the network; '
                            'an empty cell where it is for the command, the data or the machine to decide.'.format(
                                about.recipe)))
    else:
        blocks.append(Text('All that decides the training is the usual of --recipe {}.'.format(about.recipe)))
    if epochs:
        blocks += [Section('All epochs'), Markup(page_parts.numbers(about, epochs))]
    blocks += [Section('Files'), Markup(
        '<p>In this folder: <a href="log.log">log.log</a>, <a href="run.json">run.json</a> with all flags and '
        'versions, <a href="stats.json">stats.json</a> with all scalars.</p>')]
    if about.tensorboard:
        blocks += [Text('In TensorBoard, beside the other runs of its folder:'),
                   Code('tensorboard --logdir ' + shlex.quote(os.path.dirname(folder) or '.'))]
    head = _HEAD + '<meta http-equiv="refresh" content="{}">\n'.format(RELOADED_EVERY) * (state == RUNNING)
    return as_html(about.heading, about.lead, blocks, _STYLE, head)
