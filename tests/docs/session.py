PAGES_RUN_WHOLE = ("tutorial.md", "howto.md")
