"""sophia: teaches vision-language models to think before they answer (SOPHIA, arXiv 2507.16814)."""

__version__ = "0.1.0"
