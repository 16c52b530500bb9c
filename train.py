"""Train an explainer or a classifier:
``python train.py fit --config configs/train/readout_resnet50.yaml``.
"""

import sys

from lit_iba.cli.main import main

if __name__ == "__main__":
    sys.exit(main(program="train.py"))
