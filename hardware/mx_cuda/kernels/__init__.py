"""The only room that imports Triton. Its kernels run on CUDA tensors; under TRITON_INTERPRET=1 on CPU tensors."""
