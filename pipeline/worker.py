"""A Beam worker process of this machine that keeps quiet, started by pipeline.local_runner.

What goes wrong in it comes back to the launcher as an exception, and is said there, once.
"""

import logging
import sys

if __name__ == "__main__":
    logging.disable(logging.CRITICAL)  # before Beam is imported, which warns of optional packages
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv)
