"""The real thing: a paged KV cache on a transformers model, the link that moves its pages, and captures of traces."""
