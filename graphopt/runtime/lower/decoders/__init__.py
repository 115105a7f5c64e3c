"""Lowering of language models: products with weights in blocks, attention over caches, rotary embeddings."""
