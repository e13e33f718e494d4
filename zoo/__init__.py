"""The published checkpoints: which there are, and bringing them to this machine. ``model_zoo.py`` is the program."""
