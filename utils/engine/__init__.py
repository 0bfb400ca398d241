"""Training and evaluation: the loop and what it is made of. No model, data set, loss or metric by name."""
