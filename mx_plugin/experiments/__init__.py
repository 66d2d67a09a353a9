"""Experiments: a plan of runs, written first; runs in processes of their own; controls; statistics and a verdict.

Framework-free: what a run does in its process is an adapter's (``mx_trl.experiments``).
"""
