"""What translations become when an activation is replaced."""
