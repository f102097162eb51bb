"""A reproducible benchmark of semi-supervised multi-target medical image segmentation."""
