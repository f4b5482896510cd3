"""`python -m fedspill`: the command."""

from fedspill.cli import main

if __name__ == "__main__":
    main()
