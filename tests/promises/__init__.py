"""The promises of the README: each has a name, and at least one test that is marked with it."""
