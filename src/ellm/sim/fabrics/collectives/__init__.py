"""A file for each collective; a new file is a new collective."""
