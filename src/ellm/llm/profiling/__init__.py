"""What this machine takes for steps, operators and copies, measured for the simulator."""
