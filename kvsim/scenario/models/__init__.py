"""What kvsim knows of a language model: sizes from any config.json, and the bytes and operations that follow from them.

`from_config` reads a configuration and `known_model` one that ships; both give a `ModelSpec`, which the functions of
`memory`, `work` and `describe` take. Nothing here needs torch or transformers.
"""
