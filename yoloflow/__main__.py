"""`python -m yoloflow` is the `yoloflow` command."""

from yoloflow.cli import main

if __name__ == "__main__":
    main()
