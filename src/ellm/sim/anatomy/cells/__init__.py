"""The cells there are, one file each."""
