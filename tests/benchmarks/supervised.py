"""A supervised training with other settings, on the labelled cases of a run of `hippocampus.py` or on all cases, and its Dice.

    python tests/benchmarks/supervised.py --data ../shared/data/hippocampus --out /data/development_run --name fast \
        --epochs 30 --teacher '{"initial_lr": 0.003}' [--all-labels]

How long manual labels alone are worth training on, and at which learning rate: from where longer training gains nothing, a comparison at
equal steps is about the pool. Resumable. `--all-labels` is the ceiling: the same training with the labels of the pool as well. It prints
the Dice on the development split.
"""

from __future__ import annotations

import argparse
import json
import sys

from hippocampus import CEILING, DATASET, Benchmark, Model, supervised_overlay
from single_stage import TEACHER, variant_parser


def main() -> int:
    """Lay the plans, train, print the Dice."""
    arguments = parse()
    bench = Benchmark(arguments)
    overlay = supervised_overlay(json.loads(bench.overlay_file().read_text()), arguments.epochs, json.loads(arguments.teacher))
    plans = bench.lay(arguments.name, overlay)
    dataset = CEILING if arguments.all_labels else DATASET
    bench.train_supervised(dataset, plans)
    print(arguments.name, bench.evaluate(Model(arguments.name, dataset, TEACHER, plans)))
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = variant_parser(__doc__)
    parser.add_argument("--epochs", type=int, required=True, help="of the teacher's iterations each")
    parser.add_argument("--teacher", default="{}", help="JSON, settings of the training in place of the preset's")
    parser.add_argument("--all-labels", action="store_true", help="train on the pool's labels too")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
