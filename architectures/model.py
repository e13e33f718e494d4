"""Networks made from the options of a command."""
import layers
from adv_model import AdvImageNetModel
from layers.scaling import channel_order
from machine.devices import resolve_data_format
from ranks.gather import sum_over_ranks


class ConfiguredModel(AdvImageNetModel):
    """What all networks take from the options; subclasses give ``graph``.

    Args:
        options: attributes ``num_classes``, ``input_size``, ``input_scaling``, ``activation_name``, ``recompute``,
            ``data_format``, ``batch_norm_momentum``, ``batch_norm_epsilon`` and ``sync_batch_norm``, the last three
            None without batch norm; and those that the subclass reads. An ``input_scaling`` of None is the class's.
        given: attributes of ``AdvImageNetModel``.
    """
    Style = layers.Style
    input_scaling = 'sat'  # one of ``layers.scaling.INPUT_SCALINGS``: what ``graph`` takes

    def __init__(self, options, **given):
        super().__init__(num_classes=options.num_classes, image_shape=options.input_size,
                         data_format=resolve_data_format(options.data_format), **given)
        self.input_scaling = options.input_scaling or self.input_scaling
        self.channels = channel_order(self.channels, self.input_scaling)  # other scalings than 'sat' are of RGB
        self._style = dict(activation=options.activation_name, recompute=options.recompute)
        if options.batch_norm_epsilon is not None:
            self._style.update(bn_momentum=options.batch_norm_momentum, bn_epsilon=options.batch_norm_epsilon,
                               sum_over_ranks=sum_over_ranks if options.sync_batch_norm else None)

    @property
    def style(self):
        """The ``Style`` of the layers that are being built."""
        return self.Style(data_format=self.data_format, training=self.trains_now, frozen=self.frozen, dtype=self.dtype,
                          **self._style)

    def network(self, image):
        return self.graph(layers.scale_input(image, self.input_scaling, self.style))

    def graph(self, image):
        """Logits of images in the network's own scaling; subclasses build their graph here, by ``style``."""
        raise NotImplementedError
