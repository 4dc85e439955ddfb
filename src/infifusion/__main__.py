"""`python -m infifusion`, for torchrun and accelerate."""

from infifusion.cli import main

if __name__ == "__main__":
    main()
