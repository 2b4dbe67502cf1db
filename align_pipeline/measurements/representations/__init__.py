"""What hidden states of parallel sentences say besides alignment, layer by layer."""
