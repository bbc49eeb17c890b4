"""Train a model of a run of `hippocampus.py` or `single_stage.py` on with manual labels alone, and evaluate it.

    python tests/benchmarks/fine_tune.py --data ../shared/data/hippocampus --out /data/development_run --name tuned \
        --model /data/development_run/nnUNet_results/Dataset603_.../fold_all/checkpoint_final.pth --epochs 10 --lr 0.0005

`student.fine_tune_epochs` does this at the end of a student's last stage; here every variant starts from the same student. nnU-Net's
`-pretrained_weights` would not do: it leaves the last layers out.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import torch
from hippocampus import CONFIGURATION, DATASET, Benchmark, Model, supervised_overlay
from single_stage import TEACHER, variant_parser


def main() -> int:
    """Lay plans of that length, train, print the Dice."""
    arguments = parse()
    bench = Benchmark(arguments)
    overlay = json.loads(bench.overlay_file().read_text())
    path = bench.out / f"{arguments.name}.json"
    path.write_text(json.dumps(supervised_overlay(overlay, arguments.epochs, {"initial_lr": arguments.lr}), indent=1))
    bench.call("nnssl_prepare", "-d", DATASET, "-c", CONFIGURATION, "--preset", path)
    # nnU-Net reads its folders when it is imported
    os.environ.update(bench.env)
    train_on(arguments.model, f"nnUNetPlans_nnssl_{arguments.name}", arguments.device)
    print(arguments.name, bench.evaluate(Model(arguments.name, DATASET, TEACHER, f"nnUNetPlans_nnssl_{arguments.name}")))
    return 0


def train_on(checkpoint: Path, plans: str, device: str) -> None:
    """One supervised training on all labels from the weights of a checkpoint, with its own learning rate from start to end."""
    from nnunetv2.run.run_training import get_trainer_from_args

    trainer = get_trainer_from_args(str(DATASET), CONFIGURATION, "all", TEACHER, plans, device=torch.device(device))
    trainer.initialize()
    trainer.network.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=False)["network_weights"])
    trainer.run_training()


def parse() -> argparse.Namespace:
    """The command line."""
    parser = variant_parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="checkpoint to start from")
    parser.add_argument("--epochs", type=int, default=10, help="of the teacher's iterations each (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=5e-4, help="learning rate at the start (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
