"""What an adapter is: its config, its header, its tensors, and the files beside them."""
