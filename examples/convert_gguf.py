"""Convert a GGUF checkpoint to a model folder: convert_gguf.py SOURCE_FOLDER TARGET_FOLDER [--dtype float32]."""

from __future__ import annotations

import argparse

from mx_trl.gguf import convert_gguf

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="folder with the .gguf, config.json and the tokenizer")
    parser.add_argument("target", help="folder to write")
    parser.add_argument("--dtype", default="bfloat16")
    arguments = parser.parse_args()
    print(f"{convert_gguf(arguments.source, arguments.target, arguments.dtype):,} parameters in {arguments.target}")
