"""`python -m ellm` is the command `ellm`, where nothing but PYTHONPATH leads here."""

from ellm.cli.main import main

if __name__ == "__main__":
    main()
