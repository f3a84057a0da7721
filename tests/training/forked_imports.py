"""What the fork server of `tiny_runs` imports before any run: in a module, because it is imported there by name."""

import gc

import omni123_hf.cli.main
import omni123_hf.training.autoregressive
import omni123_hf.training.image_tokenizer
import omni123_hf.training.shape_tokenizer  # noqa: F401


# Trainer collects garbage at its start: without this every child walks through all that was imported, and copies it.
gc.collect()
gc.freeze()
