"""mx-plugin for OpenRLHF: a launcher before the recipe's own command line.

python -m mx_openrlhf --mx.policy C --mx.output_dir runs/x openrlhf.cli.train_ppo_ray <the recipe's own flags>
"""

from __future__ import annotations
