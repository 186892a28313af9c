"""What a trained model knows of genes: measured at annotated places, and drawn."""
