"""How long devices take to exchange data: fabrics, and nodes joined by a second fabric."""
