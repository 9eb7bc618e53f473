"""`python -m pal` is `pal`."""

from pal.cli import main

if __name__ == "__main__":
    main()
