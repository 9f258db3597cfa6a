"""What clients send and what they get back, as types."""
