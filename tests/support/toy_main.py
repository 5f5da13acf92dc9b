"""A process of a test: the main program with `model.backbone="toy"` as a choice."""

import toy_backbone
from subprocess_main import run_main

if __name__ == "__main__":
    toy_backbone.install()
    run_main()
