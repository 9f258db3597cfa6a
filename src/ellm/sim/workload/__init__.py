"""What is asked of a server: how long, when and of whom; read, made up, or written down."""
