"""Pictures and pages of what was measured, each one file that needs no network."""
