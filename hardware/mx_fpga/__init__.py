"""The FPGA: a board's exact arithmetic, the protocol that it speaks, and the host side that drives it."""
