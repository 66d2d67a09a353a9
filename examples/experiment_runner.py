"""An experiment: several policies from the same start, on the same prompts; the flags of mx-plugin experiment.

python examples/experiment_runner.py --policies A C --seeds 1 2 --output results/
python examples/experiment_runner.py --policy D --matrix m.csv --max_cost 0.02 --num_steps 100 --seed 42 --output d/
python examples/experiment_runner.py --policies A C8 --config examples/configs/ppo_stories15m.yaml --output results/
"""

from __future__ import annotations

import sys

from mx_plugin.cli import main

if __name__ == "__main__":
    sys.exit(main(["experiment", *sys.argv[1:]]))
