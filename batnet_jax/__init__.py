"""BAT-net for person retrieval in JAX/Flax (Fang et al., ICCV 2019)."""
