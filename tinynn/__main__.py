"""`python -m tinynn`: the command line."""

from tinynn.cli import main

if __name__ == "__main__":
    main()
