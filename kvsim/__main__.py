"""Lets ``python -m kvsim`` do what the command ``kvsim`` does."""

from kvsim.cli import main

if __name__ == "__main__":
    main()
