"""Attention of float32 over keys and values of earlier tokens, rotary embeddings, and the caches themselves."""
