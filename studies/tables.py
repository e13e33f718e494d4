"""A study's figures, from the cells that are filled: as JSON and as Markdown."""
import itertools
from typing import Any, Dict, NamedTuple

from studies.running import finished
from studies.statistics import mean, paired, verdict


class Figures(NamedTuple):
    """A study at a scale. asked (Scale): as --scale names it. scale: of the cells, which may be another. cells: (arm's
    name, seed) to the content of the cell's file, of the filled ones. missing (int): how many are not filled.
    """
    study: Any
    asked: Any
    scale: Any
    cells: Dict[Any, Any]
    missing: int

    def of(self, arm, column):
        """{seed: figure} of an arm; seeds without one are left out."""
        read = self.study.columns[column].read
        found = {seed: read(content) for (name, seed), content in self.cells.items() if name == arm}
        return {seed: value for seed, value in found.items() if value is not None}

    def arms(self):
        """The arms of which a cell is filled."""
        filled = {name for name, _ in self.cells}
        return [arm for arm in self.study.arms(self.scale) if arm.name in filled]

    def title(self, column):
        return self.study.columns[column].name.format(
            steps=self.scale.pgd_steps, part='{:,}'.format(self.scale.part_images), version=self.scale.version)


def gather(study, scale, place):
    """The figures of what is filled, of as many seeds as there are."""
    cells, missing, asked, scale = {}, 0, scale, study.scaled(scale)
    for arm in study.arms(scale):
        for seed in itertools.count(1):
            content = finished(place, study.cell(scale, arm, seed))
            if content is not None:
                cells[arm.name, seed] = content
            elif seed <= arm.seeds:
                missing += 1
            else:
                break
    return Figures(study, asked, scale, cells, missing)


def as_json(figures):
    """JSON-ready: of each arm the figures by seed, their mean, and the paired difference from its base."""
    study = figures.study
    arms = []
    for arm in figures.arms():
        row = {'arm': arm.name, 'base': arm.base, 'figures': {}}
        for column in study.columns:
            values = figures.of(arm.name, column)
            if values:
                difference = paired(values, figures.of(arm.base, column)) if arm.base else None
                row['figures'][column] = {'by_seed': values, 'mean': mean(list(values.values()))._asdict(),
                                          'less_base': difference and difference._asdict()}
        arms.append(row)
    return {'study': study.name, 'scale': figures.asked.name, 'cells_missing': figures.missing, 'arms': arms,
            'claims': [{'claim': claim.text, 'difference': found and found._asdict(), 'verdict': word}
                       for claim, found, word in judged_claims(figures)]}


def judged_claims(figures):
    """[(Claim, paired difference or None, verdict)]."""
    rows = []
    for claim in figures.study.claims:
        difference = paired(figures.of(claim.arm, claim.column), figures.of(claim.base, claim.column))
        rows.append((claim, difference, verdict(difference, claim.sign)))
    return rows


def table(figures):
    """Lines of Markdown: an arm in a row, means over its seeds, and differences from its base with 95% intervals."""
    columns = list(figures.study.columns)
    head = ['arm', 'seeds'] + [figures.title(column) for column in columns]
    lines = [_row(head), _row(['---'] * len(head))]
    for arm in figures.arms():
        seeds = len({seed for name, seed in figures.cells if name == arm.name})
        cells = [arm.name, str(seeds)]
        for column in columns:
            cells.append(_cell(figures, arm, column))
        lines.append(_row(cells))
    return lines


def _cell(figures, arm, column):
    values, percent = figures.of(arm.name, column), figures.study.columns[column].percent
    if not values:
        return ''
    words = _number(mean(list(values.values())).value, percent)
    difference = paired(values, figures.of(arm.base, column)) if arm.base else None
    return '{} ({})'.format(words, change(difference, percent)) if difference else words


def change(difference, percent=True):
    """A paired difference in words: '+1.2, 0.3 to 2.1'; without an interval of one seed."""
    factor = 100 if percent else 1
    words = '{:+.1f}'.format(factor * difference.value)
    return words if difference.low is None else '{}, {:.1f} to {:.1f}'.format(
        words, factor * difference.low, factor * difference.high)


def _number(value, percent):
    return '{:.1f}'.format(100 * value if percent else value)


def _row(cells):
    return '| {} |'.format(' | '.join(cells))


def claims_table(figures):
    """Lines of Markdown: what the paper says, and what these figures say to it."""
    lines = [_row(['the paper says', 'measured difference, 95%', 'so it is']), _row(['---'] * 3)]
    for claim, difference, word in judged_claims(figures):
        percent = figures.study.columns[claim.column].percent
        said = 'not run' if difference is None else '{} ({} seed{})'.format(
            change(difference, percent), difference.count, 's' * (difference.count > 1))
        lines.append(_row([claim.text, said, word]))
    return lines
