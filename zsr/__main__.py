"""`python -m zsr` is the command `zsr`."""

from zsr.cli.main import main

if __name__ == "__main__":
    main(prog_name="zsr")
