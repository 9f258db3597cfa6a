"""What a step takes, by the roofline of a device or by measurement."""
