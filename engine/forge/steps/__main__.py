"""``python -m forge.steps REQUEST``: carry out one request and say how it ended (``forge.steps.process``).

SIGTERM is answered from here on: everything that takes time to load is loaded while the process already listens.
"""

import sys

from forge.steps.interruption import StopRequest


def main(argv: list[str]) -> int:
    """Run the request file named by the only argument; returns the exit status."""
    stop = StopRequest()
    with stop.listening(), stop.deferred():
        from forge.steps.process import process_request

        return process_request(argv, stop)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
