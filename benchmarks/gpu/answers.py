"""What a process that measures and the one that asks it say to each other: a line of JSON each way."""
import json
import sys

import measure


def answer(functions):
    """Read lines of [name, arguments ...] and say what ``functions[name]`` returns, or in one line what went wrong."""
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        try:
            measure.say(functions[name](*arguments))
        except Exception as error:  # of whatever the other project's code raises, memory that is not enough included
            measure.say({'error': '{}: {}'.format(type(error).__name__, str(error).strip().split('\n')[0])[:200]})
