"""The trainer's steps as Triton kernels and CUDA graphs."""
