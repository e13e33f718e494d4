"""What is kept of a job: the figures, read from what its program wrote into its folder."""
import glob
import os
from typing import Any, Dict, NamedTuple, Optional

from files.json_files import read_json
from files.typed import anything
from studies.cells import COUNT, JUDGE, LANDSCAPE, SWEEP, TRAIN


class Found(NamedTuple):
    """Of a finished job. figures: JSON-ready. seconds: it took, over all starts; None where its program does not say
    so. source: of the program that found it, likewise."""
    figures: Dict[str, Any]
    seconds: Optional[float] = None
    source: Optional[Dict[str, Any]] = None


def _training(folder):
    """Its epochs; accuracies are fractions, of training images under the training attack."""
    from evaluation.verdicts import CLEAN  # TensorFlow is loaded where a training is read, not for a help
    from training.epochs import read_epochs
    epochs = [{'epoch': epoch.number, 'trained': 1 - epoch.train_error,
               'overfitting': epoch.overfitting,
               'seconds': round((epoch.seconds or 0) + (epoch.evaluation_seconds or 0), 1),
               'clean': next((1 - each.top1_error for each in epoch.judged if each.attack == CLEAN), None),
               'robust': {each.attack: 1 - each.top1_error for each in epoch.judged if each.attack != CLEAN}}
              for epoch in read_epochs(folder)]
    return Found({'epochs': epochs}, sum(epoch['seconds'] for epoch in epochs))


def _judged(folder):
    content = read_json(os.path.join(folder, 'results.json'), anything)
    kept = ('num_images', 'clean', 'adversarial', 'verdict', 'attack', 'threat_model', 'attacks', 'threat_models',
            'worst_case')
    return Found({name: content[name] for name in kept if name in content}, content['seconds'], content['source'])


def _swept(folder):
    content = read_json(os.path.join(folder, 'sweep.json'), anything)
    figures = {name: value for name, value in content.items()
               if name not in ('command', 'date', 'versions', 'source', 'networks', 'seed', 'tf32')}
    return Found(figures, source=content['source'])


def _seen(folder):
    picture, = glob.glob(os.path.join(folder, 'landscape*.png'))
    return Found({'picture': os.path.basename(picture)})


_READ = {COUNT: lambda path: Found(read_json(path, anything)), TRAIN: _training, JUDGE: _judged, SWEEP: _swept,
         LANDSCAPE: _seen}


def read(job, folder):
    """What a finished job found.

    Raises:
        OSError, ValueError: its files are missing or damaged.
    """
    return _READ[job.kind](folder)
