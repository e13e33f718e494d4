"""The figures, as matplotlib draws them; each function returns a figure, ``save`` and ``png`` put it away."""
import io

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np

from files.pages import DPI

# Okabe and Ito's colours, which colour-blind readers tell apart; each also has a marker of its own.
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')
MARKERS = 'osD^vPX'
_STYLE = {'font.size': 9, 'axes.spines.top': False, 'axes.spines.right': False, 'axes.grid': True, 'grid.alpha': 0.25,
          'axes.axisbelow': True, 'legend.frameon': False, 'figure.facecolor': 'white'}


def save(figure, path):
    with open(path, 'wb') as f:
        f.write(png(figure))


def png(figure):
    """Close ``figure``; its content as a PNG file (bytes)."""
    content = io.BytesIO()
    # Without the version of the library, so that the same figure is the same file.
    figure.savefig(content, dpi=DPI, format='png', metadata={'Software': None})
    plt.close(figure)
    return content.getvalue()


def styled(draw):
    def drawn(*args, **kwargs):
        with plt.rc_context(_STYLE):
            return draw(*args, **kwargs)
    return drawn


def _curve(axis, x, rows, k, label, style='-', filled=True):
    """Accuracy in % with its interval as a band."""
    y = [100 * row['accuracy'] for row in rows]
    low, high = (np.array([100 * row['accuracy_95'][end] for row in rows]) for end in (0, 1))
    colour = COLOURS[k % len(COLOURS)]
    axis.plot(x, y, style, marker=MARKERS[k % len(MARKERS)], markersize=4, color=colour, label=label,
              markerfacecolor=colour if filled else 'white')
    if filled:
        axis.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)


@styled
def curves(sweeps):
    """Accuracy against steps and against epsilon; ``sweeps`` maps a network's name to a sweep's JSON."""
    figure, (by_steps, by_epsilon) = plt.subplots(1, 2, figsize=(9.2, 3.6), sharey=True, layout='constrained')
    for k, (name, sweep) in enumerate(sweeps.items()):
        steps = [row['num_iter'] for row in sweep['steps']]
        _curve(by_steps, steps, sweep['steps'], k, name)
        by_steps.axhline(100 * sweep['clean']['accuracy'], color=COLOURS[k % len(COLOURS)], linestyle='--', linewidth=1)
        by_steps.axhline(100 * sweep['black_box']['accuracy'], color=COLOURS[k % len(COLOURS)], linestyle='-.',
                         linewidth=1)
        epsilons = [row['epsilon'] for row in sweep['epsilons']]
        _curve(by_epsilon, epsilons, sweep['epsilons'], k, '{}, PGD'.format(name))
        _curve(by_epsilon, epsilons, sweep['noise'], k, '{}, random noise'.format(name), ':', filled=False)
    one = next(iter(sweeps.values()))
    by_steps.set_xscale('log')
    by_steps.set_xticks([row['num_iter'] for row in one['steps']])
    by_steps.get_xaxis().set_major_formatter(matplotlib.ticker.ScalarFormatter())
    by_steps.minorticks_off()
    by_steps.set_xlabel('attack steps, epsilon {:g}'.format(one['single_step']['epsilon']))
    by_steps.set_ylabel('accuracy (%)')
    handles, labels = by_steps.get_legend_handles_labels()
    lines = [matplotlib.lines.Line2D([], [], color='0.3', linewidth=1, linestyle=s) for s in ('--', '-.')]
    by_steps.legend(handles + lines, labels + ['no attack', 'black box'], fontsize=8)
    by_epsilon.set_xscale('symlog', linthresh=1, linscale=0.5)
    by_epsilon.set_xticks([row['epsilon'] for row in one['epsilons']])
    by_epsilon.get_xaxis().set_major_formatter(matplotlib.ticker.FuncFormatter('{:g}'.format))
    by_epsilon.minorticks_off()
    by_epsilon.set_xlim(left=-0.2)
    by_epsilon.set_xlabel('epsilon (pixel levels), {} steps'.format(one['epsilons'][-1]['num_iter']))
    by_epsilon.legend(fontsize=8)
    by_steps.set_ylim(-2, 102)
    return figure


@styled
def landscapes(found, titles):
    """Surface and heat map of the loss around each image; ``found`` maps a network's name to its Landscape.

    All networks share their images and, for an image, the scale of the loss.

    Args:
        titles (list of str): of the images.
    """
    names, one = list(found), next(iter(found.values()))
    count = len(one.loss)
    width, height = (4.4, 2.35) if len(names) > 1 else (6.4, 3.1)
    figure = plt.figure(figsize=(width * len(names) + 0.7, height * count + 0.3))
    # Surfaces have no fixed outline that an automatic layout could go by.
    grid = figure.add_gridspec(count, 2 * len(names) + 1, width_ratios=[1.25, 1] * len(names) + [0.07], left=0.01,
                               right=1 - 0.55 / figure.get_figwidth(), bottom=0.5 / figure.get_figheight(),
                               top=1 - 0.25 / figure.get_figheight(), wspace=0.4, hspace=0.3)
    for row in range(count):
        low = min(float(found[name].loss[row].min()) for name in names)
        high = max(float(found[name].loss[row].max()) for name in names)
        scale = {'cmap': 'viridis', 'vmin': low, 'vmax': high if high > low else low + 1}
        for column, name in enumerate(names):
            surface = figure.add_subplot(grid[row, 2 * column], projection='3d')
            _surface(surface, one.offsets, found[name].loss[row], scale)
            flat = figure.add_subplot(grid[row, 2 * column + 1])
            shown = _heat_map(flat, one.offsets, found[name].loss[row], scale)
            flat.set_title('{}: {}'.format(name, titles[row]), fontsize=8, loc='right')
            flat.set_xlabel('random direction' if row == count - 1 else '', fontsize=8)
        bar = figure.colorbar(shown, cax=figure.add_subplot(grid[row, -1]))
        bar.ax.tick_params(labelsize=7)
        bar.set_label('loss', fontsize=8)
    return figure


def _surface(axis, offsets, loss, scale):
    across, along = np.meshgrid(offsets, offsets)
    axis.plot_surface(across, along, loss, rcount=100, ccount=100, linewidth=0, **scale)
    axis.set_zlim(scale['vmin'], scale['vmax'])
    axis.set_box_aspect((1, 1, 0.75), zoom=1.08)
    for one, name in ((axis.xaxis, 'random'), (axis.yaxis, 'attack'), (axis.zaxis, '')):
        one.set_major_locator(matplotlib.ticker.MaxNLocator(4))
        one.set_tick_params(labelsize=6, pad=-3)
        one.set_label_text(name, fontsize=7)
        one.labelpad = -9
    axis.set_zticklabels([])  # the bar beside the heat map tells them


def _heat_map(axis, offsets, loss, scale):
    axis.grid(False)
    shown = axis.pcolormesh(offsets, offsets, loss, shading='nearest', **scale)
    if loss.max() > loss.min():
        axis.contour(offsets, offsets, loss, 8, colors='white', linewidths=0.5, alpha=0.7)
    axis.plot(0, 0, '+', color='white', markersize=8)
    axis.set_aspect('equal')
    axis.tick_params(labelsize=7)
    axis.set_ylabel('attack direction', fontsize=8)
    return shown


@styled
def activations(x, found):
    """Functions on the left, derivatives on the right (SAT Figures 1 and 2); ``found``: see ``activations.measure``."""
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.4), layout='constrained')
    for side, axis in enumerate(axes):
        for k, (name, both) in enumerate(found.items()):
            axis.plot(x, both[side], color=COLOURS[k % len(COLOURS)], label=name,
                      linestyle=('-', '--', '-.', ':')[k // len(COLOURS) % 4])
        axis.set_title(('activation', 'derivative')[side], fontsize=10)
        axis.set_xlabel('x')
        axis.margins(x=0)
    axes[0].legend(fontsize=8)
    return figure


@styled
def matrix(names, accuracies):
    """Accuracies in %, rows sources of the attacked images, columns the networks that see them."""
    side = 1.2 + 0.8 * len(names)
    figure, axis = plt.subplots(figsize=(side + 0.6, side), layout='constrained')
    axis.grid(False)
    axis.imshow(100 * accuracies, vmin=0, vmax=100, cmap='viridis')
    for row in range(len(names)):
        for column in range(len(names)):
            value = 100 * accuracies[row, column]
            axis.text(column, row, '{:.1f}'.format(value), ha='center', va='center',
                      color='black' if value > 55 else 'white')
    axis.set_xticks(range(len(names)), names, rotation=30, ha='right')
    axis.set_yticks(range(len(names)), names)
    axis.set_xlabel('network that judges')
    axis.set_ylabel('network attacked')
    return figure


def magnification(change):
    """The largest of 1, 2, 5, 10, ... by which a perturbation, in pixel levels, still fits around grey."""
    most = max(float(np.abs(change).max()), 1e-3)
    return max(k for k in (1, 2, 5, 10, 20, 50, 100) if k == 1 or k * most <= 128)


@styled
def hardest(found):
    """Each image in a column: as it is, attacked, and what was added, magnified.

    Args:
        found (list of dict): 'image', 'adv' [S,S,3] BGR 0-255; 'title', 'adv_title' (str).
    """
    figure, axes = plt.subplots(3, len(found), figsize=(1.55 * len(found), 5.1), squeeze=False, layout='constrained')
    for column, one in zip(axes.T, found):
        change = one['adv'] - one['image']
        factor = magnification(change)
        for axis, pixels, title in zip(column, (one['image'], one['adv'], 128 + factor * change), (
                one['title'], one['adv_title'], 'change × {}'.format(factor))):
            axis.imshow(np.clip(np.round(pixels), 0, 255).astype(np.uint8)[..., ::-1], interpolation='nearest')
            axis.set_title(title, fontsize=8)
            axis.axis('off')
    return figure
