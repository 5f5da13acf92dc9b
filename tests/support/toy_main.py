"""A process of a test: the main program with `model.backbone="toy"` as a choice."""

from batnet_jax.runtime.signals import end_on_signals

if __name__ == "__main__":
    end_on_signals()  # as the main program does before it imports JAX
    import toy_backbone
    from subprocess_main import run_main

    toy_backbone.install()
    run_main()
