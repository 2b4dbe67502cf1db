"""Figure style, and figures that several measurements share."""
