"""`python -m actorhub`: the command line."""

from actorhub.cli import main

if __name__ == "__main__":
    main()
