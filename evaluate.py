"""Explain, compare, report, export:
``python evaluate.py benchmark --config configs/evaluate/iba_table1_resnet50.yaml``.
"""

import sys

from lit_iba.cli.main import main

if __name__ == "__main__":
    sys.exit(main(program="evaluate.py"))
