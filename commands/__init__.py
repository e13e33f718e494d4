"""The command line, and what the modes of ``main.py`` do."""
