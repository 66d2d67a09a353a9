"""``mx-plugin profile``: loads a model, real prompts and preferences, and hands them to ``mx_plugin.sensitivity``."""
