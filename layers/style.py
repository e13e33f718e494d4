"""What all layers of one network have in common, and networks that stand still."""
import dataclasses
from typing import Callable, Optional

import tensorflow.compat.v1 as tf


@dataclasses.dataclass(frozen=True)
class Style:
    """What all layers of one network have in common.

    data_format: 'NHWC' or 'NCHW'. training: batch norm uses (and updates the averages by) the batch's statistics.
    activation: a name of ``smooth_activations``. dtype: what convolutions and products compute in where the network
    does not stand still; variables and statistics are float32. bn_momentum, bn_epsilon: of batch norm. recompute:
    blocks keep only their input for the backward pass, and are computed a second time there. sum_over_ranks: tensor ->
    its sum over all ranks, to share batch norm's statistics between them; None for each rank's own. frozen: of a
    network that stands still, as an attack sees it; never together with ``training``.
    """
    data_format: str
    training: bool
    activation: str
    dtype: tf.DType = tf.float32
    # FD and SAT releases, as 1H Sec 5.1; SAT's evaluation command has the same for EfficientNet.
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5
    recompute: bool = False
    sum_over_ranks: Optional[Callable[[tf.Tensor], tf.Tensor]] = None
    frozen: Optional['Frozen'] = None

    def value(self, variable):
        """The variable, in the type that the network computes in."""
        if self.frozen is None:
            return tf.cast(variable, self.dtype)
        return self.frozen.once(variable.name, lambda: tf.cast(variable, self.frozen.dtype))

    @property
    def channel_axis(self):
        return 3 if self.data_format == 'NHWC' else 1

    @property
    def spatial_axes(self):
        return (1, 2) if self.data_format == 'NHWC' else (2, 3)

    def per_axis(self, batch, spatial, channel):
        """Order a value for the batch, the two spatial and the channel axis as the layout has them."""
        return [batch, spatial, spatial, channel] if self.data_format == 'NHWC' else [batch, channel, spatial, spatial]


class Frozen:
    """The parameters of a network that stands still: made once, outside of any loop that its passes are built in.

    Args:
        dtype (tf.DType): what the network's ops compute in.
    """

    def __init__(self, dtype=tf.float32):
        self.dtype = dtype
        self._made = {}

    def once(self, key, make):
        """``make()``, a structure of tensors or variables, as tensors; the same ones whenever asked for ``key``.

        They have no gradient by variables.
        """
        if key not in self._made:
            with tf.control_dependencies(None):  # this leaves loops too
                self._made[key] = tf.nest.map_structure(tf.stop_gradient, make())
        return self._made[key]


def channels_of(x, style):
    """Number of channels of ``x``, a Python int."""
    return int(x.shape[style.channel_axis])
