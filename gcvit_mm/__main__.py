"""``python -m gcvit_mm COMMAND``: what has no tool of its own."""

import importlib
import sys

USAGE = """usage: python -m gcvit_mm COMMAND (--help says more of each)

  doctor                  what is installed, whether it fits together, how to fix it
  check-data CONFIG       what is wrong with the data of a config
  convert-data SRC DST    Pascal VOC, YOLO, LabelMe or VIA into COCO JSON
  plan CONFIG             how much memory a run needs, whether it fits
  show CONFIG CHECKPOINT  a local page: drop an image, click where a pixel looks
  ops                     whose operators mmcv.ops uses; for every program"""

COMMANDS = {
    'check-data': 'gcvit_mm.cli.check_data',
    'convert-data': 'gcvit_mm.cli.convert_data',
    'plan': 'gcvit_mm.cli.plan',
    'show': 'gcvit_mm.inference.show',
    'ops': 'gcvit_mm.ops.report',
}


def main() -> int:
    """Run a command; return its status."""
    command = sys.argv[1] if len(sys.argv) > 1 else ''
    if command == 'doctor' and len(sys.argv) == 2:
        from gcvit_mm.doctor import main as doctor

        return doctor()
    if command in COMMANDS:
        return importlib.import_module(COMMANDS[command]).main(sys.argv[2:])
    asked = command in ('-h', '--help')
    print(USAGE, file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


if __name__ == '__main__':
    sys.exit(main())
