"""Some images of the validation set, clean and under the evaluations' attack, as the network sees them in training."""
import tensorflow.compat.v1 as tf
from tensorpack.callbacks import Callback

from evaluation.listing import attacked_sheet, in_a_word
from files.pictures import png_bytes
from machine.gpus import tensor_float_32

COUNT = 6
TAG = 'clean-attacked-difference'  # of TensorBoard's images


class DrawSamples(Callback):
    """Looks at the same few images before the first step and at each evaluation, on the first rank, and gives them to
    TensorBoard.

    No other rank is asked for anything, and nothing that is trained is changed.

    Args:
        evaluation (EvaluateRobustness): set up before. attacker: one of its own.
        make_batches: () -> ValidationBatches of the images; for their size see ``EvaluateRobustness``.
        names (list of str): of the classes, in words.
    Attributes:
        latest (list of Sample), step (int): what was seen last, and after which step.
    """
    latest, step = (), 0

    def __init__(self, evaluation, attacker, make_batches, names):
        self.evaluation, self.attacker, self.make_batches, self.names = evaluation, attacker, make_batches, names
        self._batches = None

    def _before_train(self):
        self._draw()

    def _trigger_epoch(self):
        if self.evaluation.attackers_after(self.epoch_num):
            self._draw()

    def _draw(self):
        if self._batches is None:
            self._batches = list(self.make_batches())
        with tensor_float_32(False):
            self.latest = self.evaluation.tower.samples(self.trainer.sess, self._batches, self.attacker)
        self.step = self.global_step
        if self.latest:
            # tensorpack 0.11's put_image calls what NumPy 2.3 no longer has.
            grid = attacked_sheet(self.latest, self.names)
            self.trainer.monitors.put_summary(tf.Summary(value=[tf.Summary.Value(tag=TAG, image=tf.Summary.Image(
                height=grid.shape[0], width=grid.shape[1], colorspace=3, encoded_image_string=png_bytes(grid)))]))

    def named(self, label):
        """A label or a prediction, in words."""
        return in_a_word(self.names, label)
