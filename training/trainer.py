"""tensorpack's trainer and how all ranks start from the same weights."""
import tensorflow.compat.v1 as tf
from tensorpack.tfutils.sesscreate import NewSessionCreator
from tensorpack.tfutils.sessinit import JustCurrentSession, SessionInit
from tensorpack.train import HorovodTrainer, SimpleTrainer

from ranks.gather import together


class FixedHorovodTrainer(HorovodTrainer):
    """tensorpack 0.11's trainer without its call of `tf.global_variables`, which TensorFlow 2 no longer has.

    Args:
        compression (str): of the gradients that ranks exchange, 'none' or 'fp16'.
    """

    def __init__(self, compression):
        import horovod.tensorflow as hvd
        super().__init__(compression=getattr(hvd.Compression, compression))

    def initialize(self, session_creator, session_init):
        self._num_global_variables = len(tf.global_variables())
        self._broadcast_op = self.hvd.broadcast_global_variables(0)
        super(HorovodTrainer, self).initialize(session_creator, session_init)
        self.sess.run(self._broadcast_op)


class SessionCreator(NewSessionCreator):
    """tensorpack's, which initializes variables and tables, in a session of a given configuration. Its constructor
    would warn of GPUs that were seen before the configuration; that of ``session_config`` holds all the same."""

    def __init__(self, config):
        self.target, self.config, self.user_provided_config = '', config, True


class AgreedSessionInit(SessionInit):
    """The first rank loads weights; if they do not fit, all ranks end with its one line."""

    def __init__(self, ranks, first):
        self.ranks, self.mine = ranks, first if ranks.is_chief else JustCurrentSession()

    def _setup_graph(self):
        together(self.ranks, self.mine._setup_graph)

    def _run_init(self, sess):
        self.mine._run_init(sess)


def make_trainer(ranks, compression):
    """The trainer of these ranks; ``compression`` as of ``FixedHorovodTrainer``."""
    return FixedHorovodTrainer(compression) if ranks.size > 1 else SimpleTrainer()
