"""Training stages: the work behind the examples. Import one by its module: ``mx_trl.stages.ppo``, ``.sft``, ..."""
