"""Whether a language's items lie closest to their English counterparts, layer by layer."""
