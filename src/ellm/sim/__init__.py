"""The real engine in virtual time."""
