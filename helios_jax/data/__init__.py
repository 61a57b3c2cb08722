"""Training data: clips, their encoding to records, and the batches made of them."""
