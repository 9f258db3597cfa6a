"""The composition root: the halves meet here and nowhere else."""
