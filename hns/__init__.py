"""HideNseek in JAX: federated learning where only signs travel."""

__version__ = '0.4.0'
