"""What the graphs of all networks share: input scalings, layouts, convolutions with batch norm, networks that stand
still, recomputation."""
from layers import products
from layers.convolution import conv2d, convolution, depthwise_conv2d, gate_channels, max_pool
from layers.normalisation import Behind, batch_norm
from layers.recompute import block
from layers.scaling import scale_input
from layers.style import Frozen, Style, channels_of

__all__ = ['Behind', 'Frozen', 'Style', 'batch_norm', 'block', 'channels_of', 'conv2d', 'convolution',
           'depthwise_conv2d', 'gate_channels', 'max_pool', 'products', 'scale_input']
