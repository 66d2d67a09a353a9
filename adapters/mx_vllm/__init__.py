"""What both frameworks' adapters need to know of vLLM: its modules, and the MX formats that it executes by itself."""
