"""Curves over whole numbers as SVG in a page, readable on a phone, on light and on dark paper."""
import math
from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple

from files.pages import safe

_WIDTH, _HEIGHT = 460, 270  # units of the drawing; about a browser's pixels where it has half of a page, or a phone
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 12, 44
_TICKS = 5
_CROWDED = 30  # points of a curve; more have smaller marks

# Each curve has a colour (of STYLE, after Okabe and Ito, which colour-blind readers tell apart) and a mark of its own.
_MARKS = ('M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z', 'M-3.5 -3.5h7v7h-7z', 'M0 -5L5 0L0 5L-5 0z', 'M0 -5L4.6 3.5h-9.2z',
          'M-4.6 -3.5h9.2L0 5z', 'M-4.5 -1.5h3v-3h3v3h3v3h-3v3h-3v-3h-3z')

STYLE = """
:root { --c0: #0072b2; --c1: #d55e00; --c2: #007a58; --c3: #b1447f; --c4: #8a6500; --c5: #555f6b; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1.2rem 2rem; }
.chart { margin: 0; min-width: 0; }
.chart figcaption { color: var(--ink); font-size: 1rem; font-weight: 600; margin: 0 0 .2rem; }
.chart p { color: var(--soft); font-size: .88rem; margin: 0; }
.chart svg.plot { width: 100%; height: auto; display: block; }
.chart text { fill: var(--soft); font-size: 14px; font-variant-numeric: tabular-nums; }
.chart .grid { stroke: var(--line); fill: none; }
.chart .axis { stroke: var(--soft); fill: none; }
.chart .curve { fill: none; stroke-width: 2; stroke-linejoin: round; }
.chart .band { stroke: none; opacity: .16; }
.chart .whisker { fill: none; stroke-width: 1.5; }
.chart .dashed { stroke-dasharray: 5 4; }
.legend { list-style: none; margin: .2rem 0 0; padding: 0; font-size: .92rem; }
.legend li { display: flex; gap: .5rem; align-items: center; overflow-wrap: anywhere; }
.legend svg { flex: none; }
.legend .value { color: var(--soft); }
""" + '\n'.join('.s{0} {{ stroke: var(--c{0}); }} .f{0} {{ fill: var(--c{0}); }}'.format(k) for k in range(6)) + """
.hollow { fill: var(--paper); }
"""


class Point(NamedTuple):
    """A value y at x, in [low, high] where the interval is known; ``note`` is shown where the reader points at it."""
    x: int
    y: float
    low: Optional[float] = None
    high: Optional[float] = None
    note: str = ''


class Curve(NamedTuple):
    """Points in the order of their x. style (int): colour and mark, which two curves share where one is ``second``: it
    is dashed and has hollow marks. value (str): what the legend says beside the name."""
    name: str
    points: Sequence[Point]
    style: int
    second: bool = False
    value: str = ''


def chart(title: str, curves: Sequence[Curve], x_name: str, shown: Callable[[float], str], note: str = '') -> str:
    """A figure of curves above a legend, as HTML; ``STYLE`` is the page's.

    Args:
        title (str). curves (sequence of Curve): one point at least over all, all values from 0 on.
        x_name (str): what x counts. shown: a value as text, for the axis.
        note (str): below the title.
    """
    points = [point for curve in curves for point in curve.points]
    first, last = min(point.x for point in points), max(point.x for point in points)
    ticks = _ticks(0, max(max(point.y, point.high or 0) for point in points) or 1)
    top = ticks[-1]
    begin, end = (first, last) if first < last else (first - 1, first + 1)

    def place(x: float, y: float) -> Tuple[float, float]:
        across = (x - begin) / (end - begin) * (_WIDTH - _LEFT - _RIGHT)
        return round(_LEFT + across, 2), round(_HEIGHT - _BOTTOM - y / top * (_HEIGHT - _TOP - _BOTTOM), 2)
    parts = []
    for y in ticks:
        x0, y0 = place(begin, y)
        parts.append('<path class="grid" d="M{} {}H{}"/>'.format(x0, y0, _WIDTH - _RIGHT))
        parts.append('<text class="y" x="{}" y="{}" text-anchor="end">{}</text>'.format(
            x0 - 7, round(y0 + 5, 2), safe(shown(y))))
    for x in _ticks(first, last, least=1) if first < last else [first]:
        if first <= x <= last:
            x0, y0 = place(x, 0)
            parts.append('<path class="axis" d="M{} {}v4"/>'.format(x0, y0))
            parts.append('<text class="x" x="{}" y="{}" text-anchor="middle">{}</text>'.format(x0, y0 + 19, round(x)))
    x0, y0 = place(begin, 0)
    parts.append('<path class="axis" d="M{} {}H{}"/>'.format(x0, y0, _WIDTH - _RIGHT))
    parts.append('<text x="{}" y="{}" text-anchor="middle">{}</text>'.format(
        (_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, safe(x_name)))
    for draw in _band, _line, _marks:
        parts += [draw(curve, place) for curve in curves]
    return '<figure class="chart"><figcaption>{0}</figcaption>{1}<svg class="plot" viewBox="0 0 {2} {3}" role="img" ' \
           'aria-label="{0}">{4}</svg><ul class="legend">{5}</ul></figure>'.format(
               safe(title), '<p>{}</p>'.format(safe(note)) if note else '', _WIDTH, _HEIGHT, '\n'.join(parts),
               ''.join(map(_legend, curves)))


def _ticks(low: float, high: float, least: float = 0) -> List[float]:
    """Round numbers from at most ``low`` to at least ``high``, which is larger, ``least`` apart at least."""
    rough = max((high - low) / _TICKS, least)
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    return [k * step for k in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)]


Place = Callable[[float, float], Tuple[float, float]]


def _band(curve: Curve, place: Place) -> str:
    """The intervals: an area, and of few points a line each, as one point has no area."""
    known = [point for point in curve.points if point.low is not None and point.high is not None]
    if not known:
        return ''
    around = [place(p.x, p.high or 0) for p in known] + [place(p.x, p.low or 0) for p in reversed(known)]
    drawn = '<path class="band f{}" d="M{}z"/>'.format(curve.style, 'L'.join('{} {}'.format(*at) for at in around))
    if len(known) > _CROWDED:
        return drawn
    ends = [(place(p.x, p.low or 0), place(p.x, p.high or 0)) for p in known]
    return drawn + '<path class="whisker s{}" d="{}"/>'.format(curve.style, ''.join(
        'M{0} {1}h6m-3 0V{2}m-3 0h6'.format(x - 3, low, high) for (x, low), (_, high) in ends))


def _line(curve: Curve, place: Place) -> str:
    return '<path class="curve s{}{}" d="M{}"/>'.format(
        curve.style, ' dashed' * curve.second, 'L'.join('{} {}'.format(*place(p.x, p.y)) for p in curve.points)) \
        if curve.points else ''


def _marks(curve: Curve, place: Place) -> str:
    size = '' if len(curve.points) <= _CROWDED else ' scale(.5)'
    return ''.join('<g class="mark" transform="translate({} {}){}">{}<title>{}</title></g>'.format(
        *place(point.x, point.y), size, _mark(curve), safe(point.note)) for point in curve.points)


def _mark(curve: Curve) -> str:
    return '<path class="s{} {}" d="{}"/>'.format(
        curve.style, 'hollow' if curve.second else 'f{}'.format(curve.style), _MARKS[curve.style])


def _legend(curve: Curve) -> str:
    return '<li><svg width="34" height="14" viewBox="-17 -7 34 14" aria-hidden="true"><path class="curve s{}{}" ' \
           'd="M-16 0H16"/>{}</svg><span>{} <span class="value">{}</span></span></li>'.format(
               curve.style, ' dashed' * curve.second, _mark(curve), safe(curve.name), safe(curve.value))
