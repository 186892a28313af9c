"""What serves a platform's compiler, beside the plain form of the same mathematics."""
