"""What a model thinks of variants: scores of changes to the DNA, from files or in memory."""
