"""What every part of the project leans on; imports nothing from model, dataset, loss or metrics."""
