"""What networks of patches share: numbers of several stages, and the refusal of stems that there are not."""


def whole(text):
    """'3,3,9,3' as a tuple."""
    return tuple(map(int, text.split(',')))


def check_stem(options, plan, width):
    """Positions along a side behind the stem of a plan, of ``options.input_size`` pixels.

    Args:
        plan: with ``stem`` (``layers.stem.ConvStem`` or None) and ``patch_size``. width (int): of the stem.
    Raises:
        ValueError: there is no such stem; says what to type.
    """
    stem, size = plan.stem, options.input_size
    if stem is None:
        return size // plan.patch_size
    if plan.patch_size not in stem.patch_sizes:
        raise ValueError('--patch-size {}: choose from {} for {}'.format(
            plan.patch_size, ', '.join(map(str, stem.patch_sizes)), options.model_name))
    if any(min(width, stem.widest or width) * eighths % 8 for eighths in stem.eighths):
        raise ValueError('--widths {}: for {} the first must be a multiple of {}'.format(
            options.widths, options.model_name, stem.multiple))
    return stem.positions(size, plan.patch_size)
