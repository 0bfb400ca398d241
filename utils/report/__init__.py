"""What a run leaves behind: tables, curves, pictures, predictions."""
