"""Every option once: its flags, unit, help, check, where it means something, what it decides.

Knows neither TensorFlow nor files. ``fields`` says what an option is; ``data``, ``network``, ``attack``, ``run`` and
``update`` have them, ``sections`` puts these together; from there come command lines (``flags``), recipes, the frozen
``Settings`` of a command (``resolve``), and what a data server is told and tells (``serving``).

To add an option, add a field to its section. ``fixes_run``, ``decides_verdict``, ``served`` and ``written`` say who
else must know of it; a recipe may name it. Its reader takes it from ``Settings``.
"""
