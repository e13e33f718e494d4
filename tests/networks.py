"""Networks of the command line's flags, for the tests."""
import main
import nets


def make_network(*flags, **changed):
    """The model of ``main.py FLAGS``; ``changed``: resolved flags to set otherwise, beyond what the flags allow."""
    args = main.parse_args(list(flags))
    for name, value in changed.items():
        assert hasattr(args, name)
        setattr(args, name, value)
    return getattr(nets, args.arch + 'Model')(args)
