"""The services that ``training/trackers.py`` tells of runs, each behind the same three words.

A service is made with the run's folder, its flags (name to number or text) and the number that the service itself gave
the run before, or ''. Then it has that number, ``run``, and where the run is to be seen, ``place``; ``log`` takes the
values of an epoch, and ``end`` the results and how the run ended. Any of these may take long, and may fail.
"""
import contextlib
import os
import re
import sys
import time

import tensorflow.compat.v1 as tf

PROJECT = 'smooth-adversarial-training'  # where the service's own variable names none
_AT_ONCE = 100  # parameters that an MLflow server takes in one message
_CHARACTERS = 500  # of a parameter; servers of MLflow before 2.8 take no more


def _title(folder):
    return os.path.basename(os.path.normpath(folder))


@contextlib.contextmanager
def _nothing_to_read():
    """Standard input is empty, and no terminal: who is not logged in would be asked in the middle of a run."""
    before = sys.stdin
    with open(os.devnull) as sys.stdin:
        try:
            yield
        finally:
            sys.stdin = before


class WeightsAndBiases:
    """https://docs.wandb.ai; its files are in the run's folder unless WANDB_DIR says otherwise."""
    module = package = 'wandb'

    def __init__(self, folder, flags, known):
        import wandb
        with _nothing_to_read():
            self._run = wandb.init(
                project=os.environ.get('WANDB_PROJECT', PROJECT), name=_title(folder), config=flags, id=known or None,
                resume='allow', dir=os.environ.get('WANDB_DIR', folder),
                settings=wandb.Settings(console='off', silent=True))
        self._teardown = wandb.teardown
        self.run = self._run.id
        self.place = self._run.dir if self._run.offline else self._run.url

    def log(self, values, epoch):
        self._run.log(dict(values, epoch=epoch), step=epoch)

    def end(self, results, how):
        self._run.summary.update(results)
        self._run.finish(exit_code=int(how != 'FINISHED'))
        self._teardown()  # until then another process may still be writing an offline run


class MLflow:
    """https://mlflow.org; in the folder mlruns unless MLFLOW_TRACKING_URI says otherwise."""
    module, package = 'mlflow', 'mlflow-skinny'

    def __init__(self, folder, flags, known):
        self.place = os.environ.get('MLFLOW_TRACKING_URI') or 'file:' + os.path.abspath('mlruns')
        if self.place.startswith('file:'):  # MLflow 3.7 and later want to be told twice
            os.environ.setdefault('MLFLOW_ALLOW_FILE_STORE', 'true')
        from mlflow import entities
        from mlflow.tracking import MlflowClient
        self._client, self._entities = MlflowClient(self.place), entities
        if known:
            self.run = known
            self._client.update_run(known, status='RUNNING')
            return
        title = os.environ.get('MLFLOW_EXPERIMENT_NAME', PROJECT)
        experiment = self._client.get_experiment_by_name(title)
        self.run = self._client.create_run(
            experiment.experiment_id if experiment else self._client.create_experiment(title),
            run_name=_title(folder)).info.run_id
        params = [entities.Param(name, str(value)[:_CHARACTERS]) for name, value in flags.items()]
        for begin in range(0, len(params), _AT_ONCE):
            self._client.log_batch(self.run, params=params[begin:begin + _AT_ONCE])

    def log(self, values, epoch):
        now = int(1000 * time.time())
        self._client.log_batch(self.run, [self._entities.Metric(re.sub(r'[^\w./ -]', '_', name), value, now, epoch)
                                          for name, value in values.items()])

    def end(self, results, how):
        self.log(results, 0)
        self._client.set_terminated(self.run, how)


class TensorBoard:
    """An events file in the folder of an evaluation's results. A training has its own, with more in it."""
    module = package = 'tensorflow'

    def __init__(self, folder, flags, known):
        self.run, self.place = _title(folder), folder

    def end(self, results, how):
        with tf.Graph().as_default():
            writer = tf.summary.FileWriter(self.place)
            writer.add_summary(tf.Summary(value=[tf.Summary.Value(tag=name, simple_value=value)
                                                 for name, value in results.items()]), 0)
            writer.close()
