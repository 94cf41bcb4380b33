"""Writes images and labels as TFRecord shards that TFDS reads:

    python beam_runner.py --source=manifest --labels=train.csv --images=photos --output=dataset \\
        --split=train --classes=classes.tsv
"""

import logging
import os
import sys
from collections.abc import Sequence

from pipeline import options


def main(argv: Sequence[str]) -> int:
    """The exit code: 0 done, 2 wrong usage, 3 too many dead letters, 75 try again, 130 Ctrl-C."""
    try:
        return _run(argv)
    except KeyboardInterrupt:
        return _fail("stopped; the same command goes on from here", exit_code=130)


def _run(argv: Sequence[str]) -> int:
    logging.getLogger().setLevel(logging.ERROR)  # Beam warns of optional packages when imported
    try:
        sharding_options, beam_options = options.parse(argv)
    except options.OptionsError as error:
        return _fail(error, exit_code=2)

    from pipeline import job, preview, run_state, sharding  # with Beam: two seconds

    logging.getLogger().setLevel(logging.WARNING)
    try:
        if sharding_options.plan_only:
            for found in preview.preview(sharding_options, beam_options):
                _say(found.text())
            return 0
        for outcome in job.run(sharding_options, beam_options):
            _say(outcome.text())
        _say(f"report: {_report(sharding_options.output, outcome.summary['split'])}")
    except (options.OptionsError, run_state.RefusedError) as error:
        return _fail(error, exit_code=2)
    except sharding.ShardError as error:
        return _fail(f"{error}. The same command goes on from here", exit_code=75)
    return _fail(outcome.problem, exit_code=3) if outcome.problem else 0


def _say(text: str) -> None:
    """Prints, unless nobody listens any more: which does not spoil what is written."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(output: str, split: str) -> str:
    """Where the page is, or why there is none: which does not spoil what is written."""
    from pipeline import report

    try:
        return report.write(output, split) or report.NOT_INSTALLED
    except report.ReportError as error:
        return str(error)


def _fail(message: object, exit_code: int) -> int:
    print(f"beam_runner.py: {message}", file=sys.stderr)
    return exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
