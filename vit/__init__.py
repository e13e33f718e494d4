"""Vision transformers (Dosovitskiy et al. 2021; Touvron et al. 2022), with or without the stem of Singh
et al. 2023."""
