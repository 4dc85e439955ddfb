"""`python -m infifusion`, for torchrun and accelerate."""

from infifusion.commands.cli import main

if __name__ == "__main__":
    main()
