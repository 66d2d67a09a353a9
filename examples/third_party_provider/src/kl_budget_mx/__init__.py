"""A third party's precision provider for mx-plugin: a budget of KL decides how narrow the formats are."""
