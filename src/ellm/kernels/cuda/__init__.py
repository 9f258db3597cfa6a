"""The op table on NVIDIA GPUs: kernels in Triton, products and prompts by PyTorch's libraries."""
