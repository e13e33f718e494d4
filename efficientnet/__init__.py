"""EfficientNet (EN: Tan and Le 2019, "EfficientNet: Rethinking Model Scaling"), as the SAT release has it."""
