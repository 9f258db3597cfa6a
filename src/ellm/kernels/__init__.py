"""The op table: every arithmetic operation a model needs, writing where it is told."""
