"""Running a tool: its errors end in one line."""

import logging
import os
import signal
import sys
from typing import Callable

from ..messages import explain
from ..processes import end_with_launcher, end_workers, leave_group, stop_restarts
from .allocation import keep_memory

LAST = 120  # seconds from an error to the end


def run_tool(main: Callable[[], None]) -> None:
    """Run the main function of a tool; errors end it with one line, bad input with status 2.

    What nobody foresaw has status 1, and its traceback where there are several processes.
    Under torchrun the tool ends with it, and bad input is not tried again.
    ``GCVIT_MM_TRACEBACK=1`` shows where an error comes from in any case.
    """
    end_with_launcher()
    keep_memory()
    logging.raiseExceptions = False  # a full disk is one line, not one for every line of the log
    try:
        main()
        leave_group()
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr, flush=True)
        sys.exit(130)
    except Exception as error:
        line, status = explain(error)
        if status == 1 and int(os.environ.get('WORLD_SIZE', 1)) > 1:
            raise  # torch says which rank it was
        print(f'error: {line}', file=sys.stderr, flush=True)
        if status == 2:
            stop_restarts()
        sys.exit(status)
    finally:
        if sys.exc_info()[0] is not None and hasattr(signal, 'alarm'):
            # torch reports a worker that was killed wherever it is, also inside of a lock that its
            # loader waits for when it is taken away: the kernel ends this process then
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(LAST)
        end_workers()
