"""What an operator sees and does; the console and the command line are two faces of it."""
