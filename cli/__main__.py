"""`python -m autoformer.cli`, which is also what torchrun starts."""

from autoformer.cli.app import main

if __name__ == "__main__":
    main()
