"""A third party's energy meter for mx-plugin: a smart plug that answers HTTP with JSON."""
