"""`python -m autoformer`: the program, whatever is on the path."""

from autoformer.cli.app import main

if __name__ == "__main__":
    main()
