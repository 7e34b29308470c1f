"""Request traces: what a server is asked and when. `registry` lists the formats; `contents` makes blocks of them."""
