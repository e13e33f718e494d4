"""The sizes of EfficientNet: one table of factors, and what follows from it. Arithmetic only."""
import math
from typing import NamedTuple

PREFIX = 'efficientnet-'


class Size(NamedTuple):
    """Factors of the base network's channels and repeats; side of the input in pixels; dropout before the
    classifier."""
    width: float
    depth: float
    resolution: int
    dropout_rate: float


# EN release; bL1 is the SAT release's (SAT Sec 6: outside of the compound scaling).
SIZES = {PREFIX + name: Size(*factors) for name, factors in {
    'b0': (1.0, 1.0, 224, 0.2),
    'b1': (1.0, 1.1, 240, 0.2),
    'b2': (1.1, 1.2, 260, 0.3),
    'b3': (1.2, 1.4, 300, 0.3),
    'b4': (1.4, 1.8, 380, 0.4),
    'b5': (1.6, 2.2, 456, 0.4),
    'b6': (1.8, 2.6, 528, 0.5),
    'b7': (2.0, 3.1, 600, 0.5),
    'b8': (2.2, 3.6, 672, 0.5),
    'bL1': (3.9, 3.7, 600, 0.5),
    'l2': (4.3, 5.3, 800, 0.5)}.items()}


class Stage(NamedTuple):
    """A row of EN Table 1: inverted residual blocks that share a kernel size; the first one has the stride."""
    repeats: int
    kernel: int
    stride: int
    expand: int
    channels: int


STAGES = (Stage(1, 3, 1, 1, 16), Stage(2, 3, 2, 6, 24), Stage(2, 5, 2, 6, 40), Stage(3, 3, 2, 6, 80),
          Stage(3, 5, 1, 6, 112), Stage(4, 5, 2, 6, 192), Stage(1, 3, 1, 6, 320))
STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
CHANNEL_MULTIPLE = 8


class Block(NamedTuple):
    """One inverted residual block: depthwise kernel size and stride, expansion, channels in and out."""
    kernel: int
    stride: int
    expand: int
    channels_in: int
    channels: int


class Plan(NamedTuple):
    """A network's channels behind the stem, its blocks in order, and its channels before the classifier."""
    stem_channels: int
    blocks: tuple
    head_channels: int


def scaled_channels(channels, width):
    """``channels * width`` rounded to a multiple of 8, up where rounding would take away more than 10% (EN release)."""
    wanted = channels * width
    rounded = max(CHANNEL_MULTIPLE, int(wanted + CHANNEL_MULTIPLE / 2) // CHANNEL_MULTIPLE * CHANNEL_MULTIPLE)
    return rounded if rounded >= 0.9 * wanted else rounded + CHANNEL_MULTIPLE


def plan(width, depth):
    """The ``Plan`` of a network with these factors of channels and repeats."""
    stem = before = scaled_channels(STEM_CHANNELS, width)
    blocks = []
    for stage in STAGES:
        channels = scaled_channels(stage.channels, width)
        for number in range(math.ceil(depth * stage.repeats)):
            blocks.append(Block(stage.kernel, 1 if number else stage.stride, stage.expand, before, channels))
            before = channels
    return Plan(stem, tuple(blocks), scaled_channels(HEAD_CHANNELS, width))
