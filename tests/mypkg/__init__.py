"""A package of a user's own, whose parts the tests name by import paths: `mypkg.nets:Block`."""
