"""The studies' plots."""
import io

import matplotlib.pyplot as plt
import numpy as np

from analysis.figures import COLOURS, MARKERS, png, styled

_SALT = {'svg.hashsalt': 'studies', 'svg.fonttype': 'none'}  # the same figure is the same file


def both(draw, figures):
    """A plot as the content of a PNG and of an SVG file (bytes)."""
    with plt.rc_context(_SALT):
        figure = draw(figures)
        content = io.BytesIO()
        figure.savefig(content, format='svg', metadata={'Date': None})
        return png(figure), content.getvalue()


@styled
def bars(figures):
    """Accuracy of each arm in %: a point for each seed, the mean as a line."""
    columns = [name for name, column in figures.study.columns.items() if column.percent]
    arms = [arm.name for arm in figures.arms()]
    figure, axis = plt.subplots(figsize=(max(5.5, 1.1 * len(arms) + 1.5), 3.6), layout='constrained')
    for k, column in enumerate(columns):
        for place, arm in enumerate(arms):
            values = [100 * value for value in figures.of(arm, column).values()]
            if not values:
                continue
            at = place + 0.22 * (k - (len(columns) - 1) / 2)
            axis.plot([at] * len(values), values, MARKERS[k], color=COLOURS[k], markersize=5, alpha=0.7,
                      label=figures.title(column) if place == 0 else None)
            axis.plot([at - 0.09, at + 0.09], [np.mean(values)] * 2, color=COLOURS[k], linewidth=2)
    axis.set_xticks(range(len(arms)), arms)
    axis.set_ylabel('accuracy (%)')
    axis.legend(fontsize=8, ncols=len(columns), loc='lower center', bbox_to_anchor=(0.5, 1))
    return figure


@styled
def by_epoch(figures):
    """Accuracy in % against the epoch: of training images under the training's own attack, and of others under PGD."""
    arms = [arm.name for arm in figures.arms()]
    figure, axes = plt.subplots(1, len(arms), figsize=(3.1 * len(arms), 3.2), sharey=True, squeeze=False,
                                layout='constrained')
    for axis, arm in zip(axes[0], arms):
        runs = [content['jobs']['train']['found']['epochs'] for (name, _), content in sorted(figures.cells.items())
                if name == arm]
        for number, epochs in enumerate(runs):
            numbers = [epoch['epoch'] for epoch in epochs]
            for k, (label, read) in enumerate((('training images, own attack', lambda e: e['trained']),
                                               ('test images, clean', lambda e: e['clean']),
                                               ('test images, PGD', lambda e: max(e['robust'].values())))):
                axis.plot(numbers, [100 * read(epoch) for epoch in epochs], color=COLOURS[k], linewidth=1.2,
                          label=label if number == 0 else None)
        axis.set_title(arm, fontsize=9)
        axis.set_xlabel('epoch')
    axes[0][0].set_ylabel('accuracy (%)')
    axes[0][0].legend(fontsize=7)
    return figure


@styled
def against_steps_and_epsilon(figures):
    """Accuracy in % against the steps of PGD, and against epsilon."""
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.4), sharey=True, layout='constrained')
    for k, arm in enumerate(figures.arms()):
        content = next(content for (name, _), content in figures.cells.items() if name == arm.name)
        swept = content['jobs']['sweep']['found']
        for axis, curve, key in zip(axes, ('steps', 'epsilons'), ('num_iter', 'epsilon')):
            axis.plot([row[key] for row in swept[curve]], [100 * row['accuracy'] for row in swept[curve]],
                      MARKERS[k] + '-', color=COLOURS[k], markersize=4, label=arm.name)
    axes[0].set_xscale('log')
    axes[0].set_xlabel('steps of PGD')
    axes[1].set_xlabel('epsilon (pixel levels)')
    axes[0].set_ylabel('accuracy (%)')
    axes[1].legend(fontsize=8)
    return figure


@styled
def against_cost(figures):
    """Accuracy in % against millions of multiply-adds of one image."""
    figure, axis = plt.subplots(figsize=(6.4, 3.6), layout='constrained')
    for k, column in enumerate(name for name, column in figures.study.columns.items() if column.percent):
        for arm in figures.arms():
            values = figures.of(arm.name, column)
            cost = figures.of(arm.name, 'cost')
            if values and cost:
                x, y = np.mean(list(cost.values())), 100 * np.mean(list(values.values()))
                axis.plot(x, y, MARKERS[k], color=COLOURS[k])
                axis.annotate(arm.name, (x, y), textcoords='offset points', xytext=(4, 3), fontsize=7)
        axis.plot([], [], MARKERS[k], color=COLOURS[k], label=figures.title(column))
    axis.set_xlabel('multiply-adds of an image (millions)')
    axis.set_ylabel('accuracy (%)')
    axis.legend(fontsize=8)
    return figure
