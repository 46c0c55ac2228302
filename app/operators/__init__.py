"""Read models and actions for operators, shared by the console and the command line."""
