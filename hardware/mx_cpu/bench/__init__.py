"""``mx-plugin bench``: what the native kernels reach, beside plain bf16, a copy and the memory's bandwidth."""
