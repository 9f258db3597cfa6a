"""What a device can do: its memory, its speed, its power, and the share of each that is reached."""
