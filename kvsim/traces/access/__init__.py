"""Access traces: which pages attention reads, step by step; `registry` lists the formats of files."""
