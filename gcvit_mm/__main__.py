"""``python -m gcvit_mm``: ``doctor``, ``check-data CONFIG``, ``plan CONFIG`` and ``ops``."""

import sys

USAGE = """usage: python -m gcvit_mm COMMAND

  doctor              what is installed, whether it fits together, how to fix it
  check-data CONFIG   what is wrong with the data of a config (--help says more)
  plan CONFIG         how much memory a run needs, whether it fits (--help says more)
  ops                 whose operators mmcv.ops uses (--help: for every program)"""


def main() -> int:
    """Run a command; return its status."""
    command = sys.argv[1] if len(sys.argv) > 1 else ''
    if command == 'doctor' and len(sys.argv) == 2:
        from gcvit_mm.doctor import main as doctor

        return doctor()
    if command == 'check-data':
        from gcvit_mm.cli.check_data import main as check_data

        return check_data(sys.argv[2:])
    if command == 'plan':
        from gcvit_mm.cli.plan import main as plan

        return plan(sys.argv[2:])
    if command == 'ops':
        from gcvit_mm.ops.report import main as ops

        return ops(sys.argv[2:])
    asked = command in ('-h', '--help')
    print(USAGE, file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


if __name__ == '__main__':
    sys.exit(main())
