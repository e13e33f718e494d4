"""ConvNeXt (Liu et al. 2022, "A ConvNet for the 2020s"), with or without the stem of Singh et al. 2023."""
