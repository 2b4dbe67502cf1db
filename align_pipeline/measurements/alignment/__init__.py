"""Whether a language's items are closest to their English counterparts, layer by layer."""
