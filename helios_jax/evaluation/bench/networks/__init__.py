"""The networks of HeliosBench: CLIP's image encoder, ViCLIP and AMT-S."""
