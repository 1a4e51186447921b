"""NN-CIFT: which fine-tuning rows are worth training on. Plain library: no Prefect, no CLI."""

__version__ = "0.1.0"
