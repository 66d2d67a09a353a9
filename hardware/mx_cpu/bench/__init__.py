"""``mx-plugin bench``: what the native kernels reach, beside plain torch, peers and the memory's bandwidth."""
