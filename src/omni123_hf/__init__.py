"""omni123-hf: open, trainable, Hugging Face-native Omni123 (arXiv 2604.02289)."""

__version__ = "0.1.0"
