"""What answers become when an activation is replaced."""
